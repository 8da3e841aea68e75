// The page is built to ntm_serve/http/page, which is committed and shipped in the wheel.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: {
    outDir: "../ntm_serve/http/page",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    // The server's policy lets no data: in but for pictures.
    assetsInlineLimit: 0,
    // What the licences of the parts ask for.
    license: { fileName: "licences.md" },
  },
  // `npm run dev` beside a server on the usual port.
  server: { host: "127.0.0.1", proxy: { "/api": "http://127.0.0.1:8002" } },
});
