// Watches one session: keeps the stream of its frames open, and what it brought.

import { EventSourceParserStream } from "eventsource-parser/stream";
import { type Api, Refused, told } from "./api";
import { waitAfter } from "./pure/backoff";
import { History } from "./pure/history";
import type { ApiFault, Begun, Session, WireFrame } from "./pure/wire";

export type Status =
  | { readonly kind: "connecting" }
  | { readonly kind: "live" }
  | { readonly kind: "waiting"; readonly why: string }
  | { readonly kind: "over"; readonly fault: ApiFault };

/** A stream of which nothing was heard for so long is broken: the server sends something every 10 s. */
const SILENCE_MAX_S = 25;

export class Watch {
  readonly history = new History();
  status: Status = { kind: "connecting" };
  begun: Begun | null = null;
  session: Session | null = null;
  openedAtMs = 0;
  /** Frames that the held history had no place for. */
  leftOut = 0;
  private readonly ended = new AbortController();
  private failures = 0;
  private due = 0;

  /** changed: called at most once per frame of the screen. */
  constructor(
    private readonly api: Api,
    private readonly id: string,
    private readonly asked: URLSearchParams,
    private readonly changed: () => void,
  ) {
    void this.run();
  }

  stop(): void {
    this.ended.abort();
    cancelAnimationFrame(this.due);
  }

  private tell(status?: Status): void {
    if (status) this.status = status;
    if (!this.due && !this.ended.signal.aborted)
      this.due = requestAnimationFrame(() => {
        this.due = 0;
        this.changed();
      });
  }

  private async run(): Promise<void> {
    const { signal } = this.ended;
    while (!signal.aborted) {
      const outcome = await this.once().catch((fault: unknown) => this.after(fault));
      if (signal.aborted || outcome === "over") return;
      this.failures++;
      await new Promise((wake) => setTimeout(wake, 1000 * waitAfter(this.failures, Math.random())));
    }
  }

  private after(fault: unknown): "over" | "again" {
    // The token ended while the stream was open.
    if (fault instanceof Refused && fault.fault.status === 401) this.api.takeToken("", fault.message);
    if (fault instanceof Refused && ![429, 500, 503, 504].includes(fault.fault.status)) {
      this.tell({ kind: "over", fault: fault.fault });
      return "over";
    }
    this.tell({ kind: "waiting", why: told(fault) });
    return "again";
  }

  /** One connection, until it breaks. */
  private async once(): Promise<"over" | "again"> {
    const connection = new AbortController();
    const stop = () => connection.abort();
    this.ended.signal.addEventListener("abort", stop, { once: true });
    let alarm = setTimeout(stop, 1000 * SILENCE_MAX_S);
    try {
      const response = await this.api.watch(this.id, this.asked, connection.signal);
      if (!response.body) throw new Error("the answer has no body");
      const events = response.body
        .pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array<ArrayBuffer>, string>)
        .pipeThrough(new EventSourceParserStream());
      const reader = events.getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        clearTimeout(alarm);
        alarm = setTimeout(stop, 1000 * SILENCE_MAX_S);
        if (next.value.event === "end") {
          const { error }: { error: ApiFault } = JSON.parse(next.value.data);
          return this.after(new Refused(error));
        }
        this.take(next.value.event, next.value.data);
      }
      throw new Error("the connection ended");
    } finally {
      clearTimeout(alarm);
      connection.abort();
      this.ended.signal.removeEventListener("abort", stop);
    }
  }

  private take(event: string | undefined, data: string): void {
    if (event === "begun") {
      this.begun = JSON.parse(data) as Begun;
      this.session = this.begun.session;
      this.openedAtMs = performance.now() - 1000 * this.session.open_for_s;
      this.failures = 0;
      this.tell({ kind: "live" });
    } else if (event === "session") {
      this.session = JSON.parse(data) as Session;
      this.tell();
    } else if (event === "frame") {
      const frame = JSON.parse(data) as WireFrame;
      if (!this.history.add(frame)) this.leftOut++;
      if (this.session) this.session = { ...this.session, next_step: frame.next_step, tier: frame.tier };
      this.tell();
    }
  }
}
