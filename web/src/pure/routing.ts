// Which view the address names. The part after # is ours; the server knows one page.

export type Route =
  | { readonly view: "models" }
  | { readonly view: "sessions"; readonly model: string }
  | { readonly view: "session"; readonly id: string }
  | { readonly view: "unknown"; readonly path: string };

/** The route of `#/...`. */
export function routeOf(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [head = "", ...rest] = path.split("/");
  if (head === "" && rest.length === 0) return { view: "models" };
  if (head === "sessions" && rest.length === 0)
    return { view: "sessions", model: new URLSearchParams(query).get("model") ?? "" };
  if (head === "sessions" && rest.length === 1 && rest[0]) {
    try {
      return { view: "session", id: decodeURIComponent(rest[0]) };
    } catch {
      return { view: "unknown", path };
    }
  }
  return { view: "unknown", path };
}

export const hrefs = {
  models: "#/",
  sessions: (model = "") => (model ? `#/sessions?model=${encodeURIComponent(model)}` : "#/sessions"),
  session: (id: string) => `#/sessions/${encodeURIComponent(id)}`,
};
