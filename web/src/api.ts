// Calls of the HTTP API, and whether the server can be reached.

import type { ApiFault, Models, Server, Session, Sessions } from "./pure/wire";

const TOKEN_KEY = "ntm-serve.token";

/** The server answered, with an error. */
export class Refused extends Error {
  constructor(readonly fault: ApiFault) {
    super(fault.message);
  }
}

/** Nobody answered. */
export class Unreachable extends Error {
  constructor(readonly reason: string) {
    super("The server does not answer.");
  }
}

export interface SessionQuery {
  readonly prefix: string;
  readonly model: string;
  readonly tier: string;
  readonly sort: string;
  readonly pageToken: string;
}

async function faultOf(response: Response): Promise<ApiFault> {
  const bare = { code: "", reason: "", fields: {}, retry_after_s: null };
  try {
    const body: { error?: ApiFault } = await response.json();
    if (body.error) return body.error;
  } catch {
    // Not ours: a proxy's, or one that was cut short.
  }
  return { ...bare, status: response.status, message: `the answer was ${response.status} ${response.statusText}` };
}

function sessionPath(id: string, rest = ""): string {
  return `sessions/${encodeURIComponent(id)}${rest}`;
}

/** A value that tells its listeners when it changes. */
export class Told<T> {
  private readonly listeners = new Set<() => void>();

  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  set value(next: T) {
    if (Object.is(next, this.current)) return;
    this.current = next;
    for (const listener of [...this.listeners]) listener();
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

export class Api {
  /** Whether the last call was answered. */
  readonly reachable = new Told(true);
  /** Why the server took a token no longer; empty where it did. */
  readonly refusal = new Told("");
  readonly token: Told<string>;

  constructor(private readonly kept: Storage = sessionStorage) {
    // For as long as the tab lives, and for no other.
    this.token = new Told(kept.getItem(TOKEN_KEY) ?? "");
  }

  takeToken(token: string, refusal = ""): void {
    this.refusal.value = refusal;
    if (token) this.kept.setItem(TOKEN_KEY, token);
    else this.kept.removeItem(TOKEN_KEY);
    this.token.value = token;
  }

  /** An answer that is not an error. token: instead of the one in use. Throws Refused, Unreachable, and AbortError. */
  async call(path: string, options: RequestInit = {}, token = this.token.value): Promise<Response> {
    const headers = new Headers(options.headers);
    if (token) headers.set("authorization", `Bearer ${token}`);
    let response: Response;
    try {
      response = await fetch(`api/v1/${path}`, { ...options, headers, cache: "no-store" });
    } catch (fault) {
      if (options.signal?.aborted) throw fault;
      this.reachable.value = false;
      throw new Unreachable(String(fault));
    }
    this.reachable.value = true;
    if (response.ok) return response;
    const fault = await faultOf(response);
    if (fault.status === 401 && token && token === this.token.value) this.takeToken("", fault.message);
    throw new Refused(fault);
  }

  private async json<T>(path: string, options: RequestInit = {}): Promise<T> {
    return (await this.call(path, options)).json();
  }

  private post<T>(path: string, body: unknown): Promise<T> {
    const headers = { "content-type": "application/json" };
    return this.json<T>(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** token: one that is tried. */
  async server(signal?: AbortSignal, token?: string): Promise<Server> {
    return (await this.call("server", signal ? { signal } : {}, token)).json();
  }

  models(signal: AbortSignal): Promise<Models> {
    return this.json("models", { signal });
  }

  sessions(query: SessionQuery, signal: AbortSignal): Promise<Sessions> {
    const asked = new URLSearchParams({ sort: query.sort });
    for (const [name, text] of [
      ["prefix", query.prefix],
      ["model", query.model],
      ["tier", query.tier],
      ["page_token", query.pageToken],
    ] as const)
      if (text) asked.set(name, text);
    return this.json(`sessions?${asked}`, { signal });
  }

  session(id: string, signal: AbortSignal): Promise<Session> {
    return this.json(sessionPath(id), { signal });
  }

  /** The stream of a session's frames. */
  watch(id: string, asked: URLSearchParams, signal: AbortSignal): Promise<Response> {
    return this.call(`${sessionPath(id, "/watch")}?${asked}`, { signal, headers: { accept: "text/event-stream" } });
  }

  fork(id: string, name: string, step: number | null): Promise<Session> {
    return this.post(sessionPath(id, "/fork"), {
      ...(name && { fork_session_id: name }),
      ...(step !== null && { step }),
    });
  }

  /** step: null is the present. */
  async snapshot(id: string, step: number | null): Promise<{ bytes: Blob; step: string }> {
    const answer = await this.call(sessionPath(id, step === null ? "/snapshot" : `/snapshot?step=${step}`));
    return { bytes: await answer.blob(), step: answer.headers.get("x-ntm-step") ?? "" };
  }

  step(id: string, inputs: Record<string, unknown>, firstStep: number): Promise<{ next_step: number }> {
    return this.post(sessionPath(id, "/steps"), { inputs, first_step: firstStep });
  }
}

/** What people are told of a fault. */
export function told(fault: unknown): string {
  return fault instanceof Error ? fault.message : String(fault);
}
