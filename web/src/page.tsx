// The frame of the page: where one is, whether the server is there, and the prompt for a token.

import { useEffect, useRef } from "preact/hooks";
import type { Api } from "./api";
import { PlaceContext, usePolled, useRoute, useTold } from "./hooks";
import { Models } from "./parts/models";
import { Session } from "./parts/session";
import { Sessions } from "./parts/sessions";
import { TokenPrompt } from "./parts/token";
import { hrefs, type Route } from "./pure/routing";

const SERVER_EVERY_S = 15;

const NAMES: Record<Route["view"], string> = {
  models: "Models",
  sessions: "Sessions",
  session: "Session",
  unknown: "Not found",
};

function View({ route }: { route: Route }) {
  if (route.view === "models") return <Models />;
  if (route.view === "sessions") return <Sessions key={route.model} model={route.model} />;
  if (route.view === "session") return <Session key={route.id} id={route.id} />;
  return (
    <div class="empty">
      <h1>There is no page “{route.path}”</h1>
      <p>
        See the <a href={hrefs.models}>models</a> or the <a href={hrefs.sessions()}>sessions</a>.
      </p>
    </div>
  );
}

export function Page({ api }: { api: Api }) {
  const route = useRoute();
  const reachable = useTold(api.reachable);
  const token = useTold(api.token);
  const { value: server, fault } = usePolled((signal) => api.server(signal), SERVER_EVERY_S, [token, reachable]);
  const main = useRef<HTMLElement>(null);
  const name = route.view === "session" ? route.id : NAMES[route.view];
  const before = useRef(name);
  useEffect(() => {
    document.title = `${name} · ntm-serve`;
    // Who moves by keyboard or hears the page is taken to what is new.
    if (before.current !== name) main.current?.focus();
    before.current = name;
  }, [name]);

  const closed = server?.access === "closed";
  const locked = server?.access === "token" && !server.caller;
  return (
    <>
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        Skip to the content
      </button>
      <header class="bar">
        <a class="brand" href={hrefs.models}>
          ntm-serve
        </a>
        <nav aria-label="Pages">
          <a href={hrefs.models} aria-current={route.view === "models" ? "page" : undefined}>
            Models
          </a>
          <a
            href={hrefs.sessions()}
            aria-current={route.view === "sessions" || route.view === "session" ? "page" : undefined}
          >
            Sessions
          </a>
        </nav>
        <div class="right small soft">
          {server?.caller?.tenant ? <span>tenant {server.caller.tenant}</span> : null}
          {token && server?.caller ? (
            <button type="button" onClick={() => api.takeToken("")}>
              Forget the token
            </button>
          ) : null}
          {server?.version ? <span>{server.version}</span> : null}
          {server && !server.ready ? <span class="badge warn">not ready</span> : null}
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <div role="status">
          {reachable ? null : (
            <p class="notice bad">
              The server does not answer. What is shown was seen before; the page tries again by itself.
            </p>
          )}
        </div>
        {closed ? (
          <div class="empty">
            <h1>This server’s page is closed</h1>
            <p>
              It knows its callers by certificate alone, which this port does not ask for. Over gRPC, and with ntm-serve
              watch, it is open to them.
            </p>
          </div>
        ) : locked ? (
          <TokenPrompt api={api} />
        ) : server ? (
          <PlaceContext.Provider value={{ api, server }}>
            <View route={route} />
          </PlaceContext.Provider>
        ) : (
          <div class="empty">
            <p>{fault && reachable ? fault : reachable ? "Asking the server …" : "Waiting for the server …"}</p>
          </div>
        )}
      </main>
    </>
  );
}
