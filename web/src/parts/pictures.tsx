// The pictures of a session: a matrix as it is now, and rows over time.

import { useLayoutEffect, useRef } from "preact/hooks";
import { type Kind, keyOf, type Look, pictureIn, rowIn, scaleOfRows, scaleOfState } from "../look";
import { shades } from "../pure/colour";
import { counted, value } from "../pure/format";
import type { Column } from "../pure/history";
import { dimmed, paintColumn, paintMatrix } from "../pure/paint";
import { inWords, type Scale } from "../pure/scale";
import { cellTicks, stepTicks } from "../pure/ticks";
import { axesOf, type View } from "../pure/views";
import { isReduced, type Picture } from "../pure/wire";
import { Curves } from "./curves";
import { Field, Panel, ScaleControl } from "./panel";
import { usePointed } from "./pointing";

/** A tensor of so few values is drawn as lines. */
const LINES_MAX = 2;

/** Pixels of the screen for each row, so that few rows are seen and many have a place. */
function rowHeight(rows: number): number {
  if (rows <= 12) return 11;
  if (rows <= 32) return 7;
  if (rows <= 64) return 4;
  if (rows <= 160) return 2.25;
  return 320 / rows;
}

/** A matrix is drawn as large as that at most, in pixels of the screen. */
const MATRIX_HEIGHT = 540;
const MATRIX_WIDTH = 320;

/** Of the parts of one tensor, in pixels of the screen: all of them, one with its title, and what is between them. */
const PARTS_WIDTH = 480;
const PART_WIDTH_MIN = 120;
const PARTS_GAP = 20;
const AXIS_WIDTH = 40;

function matrixSize(view: View): { height: number; width: number } {
  if (view.rows === view.columns) return { height: MATRIX_WIDTH, width: MATRIX_WIDTH };
  // Few cells are large ones.
  const [tall, broad] = Math.max(view.rows, view.columns) <= 8 ? [20, 24] : [12, 16];
  const height = Math.min(tall, MATRIX_HEIGHT / view.rows) * view.rows;
  return {
    height: Math.max(48, Math.round(height)),
    width: Math.round(Math.min(broad, MATRIX_WIDTH / view.columns) * view.columns),
  };
}

/** What a step's values are, where they are drawn over time. */
export interface Values {
  readonly data: ArrayLike<number>;
  readonly offset: number;
  readonly exact: boolean;
}

/** Paints a canvas of width x height pixels after each change, and tells which of them is pointed at. */
function useCanvas(width: number, height: number, paint: (pixels: Uint32Array) => void) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const picture = context.createImageData(width, height);
    paint(new Uint32Array(picture.data.buffer));
    context.putImageData(picture, 0, 0);
  });
  return { canvas, ...usePointed(width, height) };
}

function noteOf(picture: Picture, rows: number, columns: number): string {
  if (!isReduced(picture)) return `${rows} × ${columns}`;
  const full = picture.full_shape.slice(-2).join(" × ");
  return `${full}, shown as ${rows} × ${columns}`;
}

/** The cell of the greatest value: where a head looks. */
function peakOf(values: ArrayLike<number>, offset: number, length: number): number {
  let peak = 0;
  for (let at = 1; at < length; at++) if ((values[offset + at] ?? 0) > (values[offset + peak] ?? 0)) peak = at;
  return peak;
}

/** ofMany: its colour scale is shown above it, with that of its neighbours. */
export function MatrixPanel({ look, view, ofMany = false }: { look: Look; view: View; ofMany?: boolean }) {
  const picture = pictureIn(look.frame, view.tensor);
  const scale = scaleOfState(look, view);
  const { canvas, pointed, events } = useCanvas(view.columns, view.rows, (pixels) => {
    if (picture) paintMatrix(pixels, picture.data, view.offset, scale, shades(look.map));
  });
  if (!picture) return null;
  const [rowName, columnName] = axesOf(view);
  const [rowBlock, columnBlock] = [picture.blocks.at(-2) ?? 1, picture.blocks.at(-1) ?? 1];
  const readout = pointed
    ? `${rowName} ${pointed.y * rowBlock} · ${columnName} ${pointed.x * columnBlock} · ${value(
        picture.data[view.offset + pointed.y * view.columns + pointed.x] ?? Number.NaN,
      )}`
    : "";
  const size = matrixSize(view);
  const label = `${view.title} after ${counted(look.frame.nextStep, "step")}: ${view.rows} ${rowName}s by ${view.columns} ${columnName}s, ${scale.only === undefined ? "colours from " : ""}${inWords(scale)}`;
  return (
    <Panel
      look={look}
      title={view.title}
      {...(ofMany ? {} : { of: keyOf(view), note: noteOf(picture, view.rows, view.columns), scale })}
      readout={readout}
    >
      <Field
        y={cellTicks(view.rows, rowBlock, size.height / 40)}
        x={cellTicks(view.columns, columnBlock, 5)}
        size={size}
      >
        <canvas
          ref={canvas}
          width={view.columns}
          height={view.rows}
          role="img"
          aria-label={label}
          data-view={view.tensor}
          data-offset={view.offset}
          data-step={look.frame.nextStep}
          data-map={look.map}
          data-least={scale.least}
          data-greatest={scale.greatest}
          data-scale={inWords(scale)}
          {...events}
        />
      </Field>
    </Panel>
  );
}

/** The matrices of one tensor: side by side where they are small. */
export function Parts({ look, views }: { look: Look; views: readonly [View, ...View[]] }) {
  const [first] = views;
  const picture = pictureIn(look.frame, first.tensor);
  if (!picture) return null;
  const title = first.tensor.replaceAll("_", " ");
  const one = Math.max(PART_WIDTH_MIN, matrixSize(first).width + AXIS_WIDTH);
  const across = Math.max(1, Math.floor((PARTS_WIDTH + PARTS_GAP) / (one + PARTS_GAP)));
  const width = across * one + (across - 1) * PARTS_GAP;
  return (
    <div class="parts" style={{ width: `${width}px`, columnGap: `${PARTS_GAP}px` }}>
      <div class="caption">
        <span class="small soft">
          {views.length} of {noteOf(picture, first.rows, first.columns)}
        </span>
        <ScaleControl look={look} of={keyOf(first)} title={title} scale={scaleOfState(look, first)} />
      </div>
      {views.map((view) => (
        <div key={view.offset} style={{ width: `${one}px` }}>
          <MatrixPanel look={look} view={view} ofMany />
        </div>
      ))}
    </div>
  );
}

export interface OverTimeProps {
  readonly look: Look;
  readonly view: View;
  readonly scale: Scale;
  readonly block: number;
  readonly note: string;
  readonly valuesAt: (column: Column) => Values | null;
}

function Strip({ look, view, scale, block, note, valuesAt }: OverTimeProps) {
  const { columns, width, frame, map } = look;
  const { canvas, pointed, at, events } = useCanvas(width, view.columns, (pixels) => {
    for (const [index, column] of columns.entries()) {
      const values = valuesAt(column);
      if (!values) continue;
      paintColumn(pixels, index, width, values.data, values.offset, view.columns, scale, shades(map));
      if (!values.exact)
        for (let row = 0; row < view.columns; row++)
          pixels[row * width + index] = dimmed(pixels[row * width + index] ?? 0);
    }
  });
  const [, placeName] = axesOf(view);
  const cursor = columns.findIndex((column) => column.step === frame.nextStep - 1);
  const under = pointed ? columns[pointed.x] : undefined;
  const values = under ? valuesAt(under) : null;
  const readout =
    pointed && under && values
      ? `step ${under.step} · ${placeName} ${pointed.y * block} · ${values.exact ? "" : "later "}${value(values.data[values.offset + pointed.y] ?? Number.NaN)}`
      : "";
  const height = Math.max(44, Math.round(view.columns * rowHeight(view.columns)));
  const now = cursor >= 0 && columns[cursor] ? valuesAt(columns[cursor]) : null;
  const peak = now ? peakOf(now.data, now.offset, view.columns) : 0;
  const summary = now
    ? `; at the step shown the greatest is ${value(now.data[now.offset + peak] ?? Number.NaN)} at ${placeName} ${peak * block}`
    : "";
  const steps = columns.filter((column) => column.step !== null);
  const span = steps.length ? `steps ${steps[0]?.step} to ${steps.at(-1)?.step}` : "no steps yet";
  return (
    <Panel look={look} of={keyOf(view)} title={view.title} note={note} scale={scale} readout={readout}>
      <Field
        y={cellTicks(view.columns, block, height / 40)}
        x={stepTicks(columns, width, 6)}
        cursor={cursor < 0 ? null : (cursor + 0.5) / width}
        size={{ height }}
      >
        <canvas
          ref={canvas}
          width={width}
          height={view.columns}
          role="img"
          aria-label={`${view.title} over time, ${span}${summary}`}
          data-view={view.tensor}
          data-offset={view.offset}
          data-steps={columns.map((column) => column.step ?? "").join(" ")}
          data-map={look.map}
          data-least={scale.least}
          data-greatest={scale.greatest}
          data-scale={inWords(scale)}
          onClick={(event) => {
            const column = columns[at(event).x];
            if (column) look.onPick(column);
          }}
          {...events}
        />
      </Field>
    </Panel>
  );
}

function OverTime(props: OverTimeProps) {
  return props.view.columns <= LINES_MAX ? <Curves {...props} /> : <Strip {...props} />;
}

/** A row of the state over time: where a head looked. */
export function StateStrip({ look, view }: { look: Look; view: View }) {
  const picture = pictureIn(look.frame, view.tensor);
  if (!picture) return null;
  const valuesAt = ({ frame, exact }: Column): Values | null => {
    const found = frame === null ? undefined : look.history.frames[frame];
    const data = found && pictureIn(found, view.tensor)?.data;
    return data ? { data, offset: view.offset, exact } : null;
  };
  const block = picture.blocks.at(-1) ?? 1;
  const note =
    block === 1 ? counted(view.columns, axesOf(view)[1]) : `${picture.full_shape.at(-1)}, shown as ${view.columns}`;
  return (
    <OverTime look={look} view={view} scale={scaleOfState(look, view)} block={block} note={note} valuesAt={valuesAt} />
  );
}

/** An input or output over time. */
export function RowStrip({ look, view, kind }: { look: Look; view: View; kind: Kind }) {
  const valuesAt = (column: Column): Values | null => {
    const data = rowIn(look, column, kind, view.tensor);
    return data ? { data, offset: view.offset, exact: true } : null;
  };
  return (
    <OverTime
      look={look}
      view={view}
      scale={scaleOfRows(look, view, kind)}
      block={1}
      note={counted(view.columns, axesOf(view)[1])}
      valuesAt={valuesAt}
    />
  );
}
