// What can be done with a session: a snapshot of it, and where the server allows writes a fork.

import { useRef, useState } from "preact/hooks";
import { told } from "../api";
import { download } from "../download";
import { usePlace } from "../hooks";
import { bytes, counted } from "../pure/format";
import { hrefs } from "../pure/routing";

interface ActionsProps {
  readonly id: string;
  /** Of the frame that is held; null for the present. */
  readonly step: number | null;
}

type Said = { readonly fault: string } | { readonly done: string; readonly fork?: string };

export function Actions({ id, step }: ActionsProps) {
  const { api, server } = usePlace();
  const [said, setSaid] = useState<Said | null>(null);
  const [busy, setBusy] = useState(false);
  const name = useRef<HTMLInputElement>(null);
  const where = step === null ? "as it stands" : `after ${counted(step, "step")}`;

  const doing = (work: () => Promise<Said>) => async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setSaid(await work().catch((fault: unknown) => ({ fault: told(fault) })));
    setBusy(false);
  };
  const snapshot = doing(async () => {
    const taken = await api.snapshot(id, step);
    download(`${id}-${taken.step}.snapshot`, taken.bytes);
    return {
      done: `A snapshot after ${counted(Number(taken.step), "step")} was downloaded, ${bytes(taken.bytes.size)}.`,
    };
  });
  const fork = doing(async () => {
    const made = await api.fork(id, name.current?.value.trim() ?? "", step);
    return { done: `Forked after ${counted(made.next_step, "step")}: `, fork: made.session_id };
  });

  return (
    <section aria-labelledby="actions-title" class="stack">
      <h2 id="actions-title">This session, {where}</h2>
      <div class="controls">
        <button type="button" disabled={busy} onClick={snapshot}>
          Take a snapshot
        </button>
        {server.writes_allowed ? (
          <form class="controls" onSubmit={fork}>
            <label>
              <span class="hidden">Id of the fork</span>
              <input type="text" ref={name} placeholder="id of the fork" maxLength={128} spellcheck={false} />
            </label>
            <button type="submit" disabled={busy}>
              Fork
            </button>
          </form>
        ) : (
          <span class="small soft">
            To fork it, or step it by hand, the server must be started with <code>--inspector write</code>.
          </span>
        )}
      </div>
      <p role="status">
        {said && "done" in said ? said.done : null}
        {said && "fork" in said && said.fork ? <a href={hrefs.session(said.fork)}>{said.fork}</a> : null}
        {said && "fault" in said ? <span class="fault">{said.fault}</span> : null}
      </p>
    </section>
  );
}
