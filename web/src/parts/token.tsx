// Asks for a token, and tries it before it is used.

import { useRef, useState } from "preact/hooks";
import { type Api, Refused, told } from "../api";

export function TokenPrompt({ api }: { api: Api }) {
  const [fault, setFault] = useState(() =>
    api.refusal.value ? `The server takes the token no longer: ${api.refusal.value}` : "",
  );
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);

  const tryIt = async (event: Event) => {
    event.preventDefault();
    const token = field.current?.value.trim() ?? "";
    if (!token) return setFault("Expected a token.");
    // What a header cannot carry, as a line break in the middle.
    if (!/^[\x21-\x7e]+$/.test(token)) return setFault("A token has no spaces and no letters beyond ASCII.");
    setBusy(true);
    try {
      await api.server(undefined, token);
      api.takeToken(token);
    } catch (refusal) {
      setFault(refusal instanceof Refused ? `The server refused this token: ${refusal.message}` : told(refusal));
      setBusy(false);
      field.current?.select();
    }
  };

  return (
    <form class="empty stack" onSubmit={tryIt} aria-labelledby="token-title">
      <h1 id="token-title">This server asks who calls</h1>
      <p>A token that gRPC takes opens this page as well. It is kept for this tab alone, until the tab is closed.</p>
      <label for="token">Token</label>
      <input
        id="token"
        ref={field}
        type="password"
        autocomplete="off"
        spellcheck={false}
        aria-describedby="token-fault"
      />
      <p id="token-fault" class="fault" role="alert">
        {fault}
      </p>
      <button type="submit" class="main" disabled={busy}>
        Open the page
      </button>
    </form>
  );
}
