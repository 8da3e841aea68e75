// The open sessions: searched, sorted by the server, in pages.

import { useEffect, useState } from "preact/hooks";
import { usePlace, usePolled } from "../hooks";
import { bytes, count, duration } from "../pure/format";
import { hrefs } from "../pure/routing";
import type { Session } from "../pure/wire";

const EVERY_S = 2;

/** Typing is waited for. */
const TYPING_S = 0.25;

type Key = "id" | "steps" | "idle" | "bytes";

function useSettled<T>(value: T, afterS: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), 1000 * afterS);
    return () => clearTimeout(timer);
  }, [value, afterS]);
  return settled;
}

interface ColumnProps {
  readonly name: string;
  readonly of: Key;
  readonly sort: string;
  readonly onSort: (sort: string) => void;
  readonly numbers?: boolean;
}

function Column({ name, of, sort, onSort, numbers }: ColumnProps) {
  const [up, down] = [sort === of, sort === `-${of}`];
  // Of ids the first are wanted first, of numbers the largest.
  const next = of === "id" ? (up ? "-id" : "id") : down ? of : `-${of}`;
  return (
    <th
      scope="col"
      class={numbers ? "number" : undefined}
      aria-sort={up ? "ascending" : down ? "descending" : undefined}
    >
      <button type="button" onClick={() => onSort(next)}>
        {name}
        <span aria-hidden="true">{up ? "↑" : down ? "↓" : ""}</span>
      </button>
    </th>
  );
}

function Row({ session }: { session: Session }) {
  const behind = session.next_step - session.durable_step;
  const durable = session.durability === "memory" ? "" : behind ? `, ${count(behind)} not yet kept` : ", all kept";
  return (
    <tr>
      <th scope="row">
        <a class="mono" href={hrefs.session(session.session_id)}>
          {session.session_id}
        </a>
      </th>
      <td data-label="model">
        <span>
          {session.model} <span class="soft">{session.version}</span>
        </span>
      </td>
      <td data-label="steps" class="number">
        {count(session.next_step)}
      </td>
      <td data-label="durability">
        <span>
          {session.durability}
          <span class="soft small">{durable}</span>
        </span>
      </td>
      <td data-label="tier">
        <span class={session.tier === "resident" ? "badge good dot" : "badge dot"}>{session.tier}</span>
      </td>
      <td data-label="idle" class="number">
        {duration(session.idle_for_s)}
      </td>
      <td data-label="bytes" class="number">
        {bytes(session.state_bytes)}
      </td>
    </tr>
  );
}

export function Sessions({ model }: { model: string }) {
  const { api } = usePlace();
  const [typed, setTyped] = useState("");
  const [tier, setTier] = useState("");
  const [sort, setSort] = useState("idle");
  const [pages, setPages] = useState<readonly string[]>([""]);
  const prefix = useSettled(typed, TYPING_S);
  const pageToken = pages.at(-1) ?? "";
  const query = { prefix: prefix.trim(), model, tier, sort, pageToken };
  const { value, fault } = usePolled((signal) => api.sessions(query, signal), EVERY_S, [api, ...Object.values(query)]);
  // A page's token belongs to the question that it was the answer to.
  const asking =
    <T,>(set: (value: T) => void) =>
    (value: T) => {
      set(value);
      setPages([""]);
    };
  const sorted = asking(setSort);
  const filtered = prefix.trim() !== "" || tier !== "" || model !== "";

  return (
    <>
      <div class="head">
        <h1>Sessions</h1>
        {model ? (
          <span>
            of {model} · <a href={hrefs.sessions()}>of every model</a>
          </span>
        ) : null}
      </div>
      <search class="controls">
        <label class="spread">
          <span class="hidden">Ids that begin with</span>
          <input
            type="search"
            class="spread"
            placeholder="Ids that begin with …"
            spellcheck={false}
            value={typed}
            onInput={(event) => asking(setTyped)(event.currentTarget.value)}
          />
        </label>
        <label>
          Tier
          <select value={tier} onChange={(event) => asking(setTier)(event.currentTarget.value)}>
            <option value="">all</option>
            <option value="resident">resident</option>
            <option value="stored">stored</option>
          </select>
        </label>
        <label>
          Sort
          <select value={sort} onChange={(event) => sorted(event.currentTarget.value)}>
            <option value="idle">latest used</option>
            <option value="-idle">longest idle</option>
            <option value="id">id</option>
            <option value="-id">id, backwards</option>
            <option value="-steps">most steps</option>
            <option value="steps">fewest steps</option>
            <option value="-bytes">largest</option>
            <option value="bytes">smallest</option>
          </select>
        </label>
      </search>
      {fault ? <p class="notice bad">{fault}</p> : null}
      {value && !value.complete ? (
        <p class="notice">
          The store has more sessions than are sorted. Sort by id, or search, to see those that are missing.
        </p>
      ) : null}
      {value?.sessions.length === 0 ? (
        <div class="empty">
          {filtered ? (
            <h2>No open session is like that</h2>
          ) : (
            <>
              <h2>No session is open</h2>
              <p>A session appears here when a client opens one:</p>
              <code>{'with client.session("copy-ff", session_id="first") as session: session.step(x)'}</code>
            </>
          )}
        </div>
      ) : null}
      {value?.sessions.length ? (
        <table class="lists">
          <caption class="hidden">Open sessions</caption>
          <thead>
            <tr>
              <Column name="session" of="id" sort={sort} onSort={sorted} />
              <th scope="col">model</th>
              <Column name="steps" of="steps" sort={sort} onSort={sorted} numbers />
              <th scope="col">durability</th>
              <th scope="col">tier</th>
              <Column name="idle" of="idle" sort={sort} onSort={sorted} numbers />
              <Column name="bytes" of="bytes" sort={sort} onSort={sorted} numbers />
            </tr>
          </thead>
          <tbody>
            {value.sessions.map((session) => (
              <Row key={session.session_id} session={session} />
            ))}
          </tbody>
        </table>
      ) : null}
      {pages.length > 1 || value?.next_page_token ? (
        <nav class="controls" aria-label="Pages of sessions">
          <button type="button" disabled={pages.length < 2} onClick={() => setPages(pages.slice(0, -1))}>
            Back
          </button>
          <span class="small soft">page {pages.length}</span>
          <button
            type="button"
            disabled={!value?.next_page_token}
            onClick={() => value?.next_page_token && setPages([...pages, value.next_page_token])}
          >
            On
          </button>
        </nav>
      ) : null}
    </>
  );
}
