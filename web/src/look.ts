// What is looked at: which frame and columns of the history, and how they are coloured.

import type { MapName } from "./pure/colour";
import type { Column, Frame, History } from "./pure/history";
import { drawable, joined, rangeOf, type Scale } from "./pure/scale";
import type { View } from "./pure/views";
import type { Picture } from "./pure/wire";

export interface Look {
  readonly history: History;
  /** Columns of the pictures over time, the frame that is shown among them. */
  readonly columns: readonly Column[];
  /** Columns that there is room for. */
  readonly width: number;
  readonly frame: Frame;
  readonly map: MapName;
  readonly pins: ReadonlyMap<string, Scale>;
  readonly onPin: (key: string, scale: Scale | null) => void;
  /** A step was pointed out in a picture over time. */
  readonly onPick: (column: Column) => void;
}

/** Weightings and usage are shares, whatever they happen to be now. */
const SHARES: ReadonlySet<string> = new Set(["read_weighting", "write_weighting", "usage", "precedence", "link"]);

const ranges = new WeakMap<ArrayLike<number>, Scale | null>();

/** The range of an array that never changes, looked through once. */
function rangeOnce(values: Float32Array): Scale | null {
  const known = ranges.get(values);
  if (known !== undefined) return known;
  const range = rangeOf(values);
  ranges.set(values, range);
  return range;
}

export function pictureIn(frame: Frame, name: string): Picture | undefined {
  return frame.state.find((picture) => picture.name === name);
}

export function keyOf(view: View): string {
  return `${view.role}/${view.tensor}`;
}

/** The scale of a view of the state: pinned, or of all frames that are kept, so that colours do not change with each. */
export function scaleOfState(look: Look, view: View): Scale {
  const pin = look.pins.get(keyOf(view));
  if (pin) return pin;
  if (SHARES.has(view.role)) return { least: 0, greatest: 1 };
  let range: Scale | null = null;
  for (const frame of look.history.frames) {
    const picture = pictureIn(frame, view.tensor);
    if (picture) range = joined(range, rangeOnce(picture.data));
  }
  return drawable(range, look.map);
}

export type Kind = "inputs" | "outputs";

/** A step's values of an input or output. */
export function rowIn(look: Look, column: Column, kind: Kind, name: string): Float32Array | undefined {
  return column.step === null ? undefined : look.history.row(column.step)?.[kind].get(name);
}

/** The scale of an input or output: pinned, or of what is shown. */
export function scaleOfRows(look: Look, view: View, kind: Kind): Scale {
  const pin = look.pins.get(keyOf(view));
  if (pin) return pin;
  let range: Scale | null = null;
  for (const column of look.columns) {
    const row = rowIn(look, column, kind, view.tensor);
    if (row) range = joined(range, rangeOnce(row));
  }
  return drawable(range, look.map);
}

/** Columns around the frame that is shown: the latest up to it, and as many as there is room for. */
export function shownColumns(
  columns: readonly Column[],
  frame: Frame,
  width: number,
  following: boolean,
): readonly Column[] {
  if (columns.length <= width) return columns;
  if (following) return columns.slice(-width);
  const at = columns.findIndex((column) => column.step === frame.nextStep - 1);
  const end = Math.min(columns.length, Math.max(width, Math.max(at, 0) + Math.ceil(width / 2)));
  return columns.slice(end - width, end);
}
