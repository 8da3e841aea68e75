// One session: its memory as it is now, where its heads look over time, and what goes in and out.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { download } from "../download";
import { drawFigure } from "../figure";
import { usePlace, useRedraw } from "../hooks";
import { type Kind, type Look, shownColumns } from "../look";
import { archiveOf } from "../pure/archive";
import { bytes, count, counted, duration } from "../pure/format";
import type { Column, Frame } from "../pure/history";
import { npz } from "../pure/npy";
import { hrefs } from "../pure/routing";
import type { Scale } from "../pure/scale";
import { byTensor, type View, viewsOf, viewsOfState } from "../pure/views";
import type { ApiFault, Limits, Session as SessionFacts, TensorSpec } from "../pure/wire";
import { type Status, Watch } from "../watch";
import { Actions } from "./actions";
import { Numbers } from "./numbers";
import { Pad } from "./pad";
import { MatrixPanel, Parts, RowStrip, StateStrip } from "./pictures";
import { type Choice, Player } from "./player";

/** Columns of an empty picture over time: a few steps are not drawn as broad bars. */
const COLUMNS_MIN = 40;

const FAULTS: Readonly<Record<string, string>> = {
  CLOSED: "This session was closed",
  EXPIRED: "This session expired",
  EVICTED: "This session was evicted",
  UNKNOWN: "There is no such session",
};

function StatusBadge({ status, following }: { status: Status; following: boolean }) {
  if (status.kind === "live")
    return following ? <span class="badge good dot live">live</span> : <span class="badge warn dot">paused</span>;
  if (status.kind === "over") return <span class="badge bad dot">ended</span>;
  return <span class="badge warn dot">{status.kind === "connecting" ? "connecting" : "connecting again"}</span>;
}

interface FactsProps {
  readonly of: SessionFacts;
  /** When it was opened, on the clock of this page. */
  readonly openedAtMs: number;
  readonly following: boolean;
  readonly status: Status;
}

function Facts({ of, openedAtMs, following, status }: FactsProps) {
  const facts: [string, string][] = [
    ["model", `${of.model} ${of.version}`],
    ["steps", count(of.next_step)],
    ["durability", of.durability],
    ["tier", of.tier],
    ["state", bytes(of.state_bytes)],
    ["open for", duration(Math.max(0, performance.now() - openedAtMs) / 1000)],
    ...(of.tenant ? ([["tenant", of.tenant]] as [string, string][]) : []),
  ];
  return (
    <dl class="facts">
      <div>
        <dt class="hidden">stream</dt>
        <dd>
          <span role="status">
            <StatusBadge status={status} following={following} />
          </span>
        </dd>
      </div>
      {facts.map(([name, text]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{text}</dd>
        </div>
      ))}
    </dl>
  );
}

function Over({ fault }: { fault: ApiFault }) {
  return (
    <div class="notice bad" role="alert">
      <strong>{FAULTS[fault.reason] ?? "The server ended the stream"}.</strong>
      <span>{fault.message}</span>
      <a href={hrefs.sessions()}>All sessions</a>
    </div>
  );
}

/** The views of inputs and outputs. */
function viewsOfRows(specs: readonly TensorSpec[], role: "input" | "output"): View[] {
  return specs.flatMap(({ name, shape }) =>
    viewsOf({ name, role, shape }).map((view) => ({ ...view, title: `${role} ${view.title}` })),
  );
}

interface PicturesProps {
  readonly look: Look;
  readonly inputs: readonly View[];
  readonly outputs: readonly View[];
  readonly state: readonly View[];
}

function Pictures({ look, inputs, outputs, state }: PicturesProps) {
  const key = (view: View) => `${view.tensor} ${view.offset}`;
  const rows = (views: readonly View[], kind: Kind) =>
    views.map((view) => <RowStrip key={key(view)} look={look} view={view} kind={kind} />);
  const matrices = state.filter((view) => view.kind === "matrix");
  const strips = state.filter((view) => view.kind === "strip");
  return (
    <div class="panels">
      <section class="over-time" aria-label="Over time">
        {rows(inputs, "inputs")}
        {rows(outputs, "outputs")}
        {strips.map((view) => (
          <StateStrip key={key(view)} look={look} view={view} />
        ))}
      </section>
      {matrices.length ? (
        <section class="now" aria-label="Now">
          {byTensor(matrices).map(([view, ...others]) =>
            view && others.length ? (
              <Parts key={view.tensor} look={look} views={[view, ...others]} />
            ) : view ? (
              <MatrixPanel key={view.tensor} look={look} view={view} />
            ) : null,
          )}
        </section>
      ) : null}
    </div>
  );
}

function upTo(limit: number, choices: readonly number[]): number[] {
  return [...choices.filter((one) => one < limit), limit];
}

function firstChoice(limits: Limits): Choice {
  const framesPerS = upTo(limits.frames_per_s_max, [1, 2, 5, 10, 20]).findLast(
    (one) => one <= limits.frames_per_s_default,
  );
  return { map: "even", width: 120, framesPerS: framesPerS ?? 1, rows: Math.min(256, limits.rows_max) };
}

/** The stream of a session, and this part drawn again when it brings something. */
function useWatch(id: string, choice: Choice): Watch | null {
  const { api } = usePlace();
  const redraw = useRedraw();
  const watch = useRef<Watch | null>(null);
  const { framesPerS, rows } = choice;
  useEffect(() => {
    const size = String(rows);
    const asked = new URLSearchParams({ frames_per_s: String(framesPerS), rows_max: size, columns_max: size });
    const begun = new Watch(api, id, asked, redraw);
    watch.current = begun;
    redraw();
    return () => begun.stop();
  }, [api, id, framesPerS, rows]);
  return watch.current;
}

export function Session({ id }: { id: string }) {
  const { server } = usePlace();
  const limits = server.limits as Limits;
  const [choice, setChoice] = useState(() => firstChoice(limits));
  const watch = useWatch(id, choice);
  // The frame that is held; null follows the latest.
  const [held, setHeld] = useState<Frame | null>(null);
  const [pins, setPins] = useState<ReadonlyMap<string, Scale>>(new Map());
  const pictures = useRef<HTMLDivElement>(null);
  const model = watch?.begun?.model;
  const frames = watch?.history.frames ?? [];
  const first = frames[0];
  const views = useMemo(
    () => ({
      inputs: viewsOfRows(model?.inputs ?? [], "input"),
      outputs: viewsOfRows(model?.outputs ?? [], "output"),
      state: viewsOfState(first?.state ?? []),
    }),
    [model, first === undefined],
  );

  const found = held ? frames.indexOf(held) : -1;
  const index = found >= 0 ? found : frames.length - 1;
  const frame = frames[index];
  const following = found < 0;
  if (watch) watch.history.held = !following;
  const hold = (at: number) => setHeld(frames[at] ?? null);
  const onPick = (column: Column) => {
    if (column.frame !== null) hold(column.frame);
  };
  const choose = (next: Choice) => {
    if (next.framesPerS !== choice.framesPerS || next.rows !== choice.rows) setHeld(null);
    setChoice(next);
  };
  const onPin = (key: string, scale: Scale | null) => {
    const next = new Map(pins);
    if (scale) next.set(key, scale);
    else next.delete(key);
    setPins(next);
  };

  let look: Look | null = null;
  if (watch && frame) {
    const columns = watch.history.columns();
    const width = Math.min(choice.width, Math.max(COLUMNS_MIN, columns.length));
    const shown = shownColumns(columns, frame, width, following);
    look = { history: watch.history, columns: shown, width, frame, map: choice.map, pins, onPin, onPick };
  }
  const exportPng = async () => {
    if (pictures.current && frame)
      download(
        `${id}-${frame.nextStep}.png`,
        await drawFigure(pictures.current, `${id}, after ${counted(frame.nextStep, "step")}`),
      );
  };
  const exportNpz = () => {
    if (!watch || !frame || !model) return;
    const arrays = archiveOf(watch.history, { inputs: model.inputs, outputs: model.outputs });
    download(`${id}-${frame.nextStep}.npz`, new Blob([npz(arrays)], { type: "application/zip" }));
  };
  const status: Status = watch?.status ?? { kind: "connecting" };
  const session = watch?.session;

  return (
    <>
      <div class="head">
        <h1 class="mono">{id}</h1>
      </div>
      {session ? (
        <Facts of={session} openedAtMs={watch?.openedAtMs ?? 0} following={following} status={status} />
      ) : null}
      {status.kind === "over" ? <Over fault={status.fault} /> : null}
      {status.kind === "waiting" ? <p class="notice">The stream broke, and is tried again: {status.why}</p> : null}
      {!look && status.kind === "connecting" ? <p class="soft">Asking for the session …</p> : null}
      {look && watch ? (
        <>
          <Player
            frames={frames}
            index={index}
            following={following}
            leftOut={watch.leftOut}
            onHold={hold}
            onFollow={() => {
              watch.leftOut = 0;
              setHeld(null);
            }}
            choice={choice}
            onChoice={choose}
            rates={upTo(limits.frames_per_s_max, [1, 2, 5, 10, 20])}
            sizes={upTo(limits.rows_max, [64, 128, 256])}
            onPng={exportPng}
            onNpz={exportNpz}
          />
          {frame?.state.length ? null : <p class="notice">This model keeps no state: there is no memory to see.</p>}
          <div ref={pictures}>
            <Pictures look={look} {...views} />
          </div>
          <details>
            <summary>In numbers</summary>
            <Numbers look={look} views={views.state} />
          </details>
          {status.kind === "over" ? null : <Actions id={id} step={following ? null : (frame?.nextStep ?? null)} />}
          {server.writes_allowed && model && session && status.kind !== "over" ? (
            <Pad id={id} inputs={model.inputs} nextStep={session.next_step} />
          ) : null}
        </>
      ) : null}
    </>
  );
}
