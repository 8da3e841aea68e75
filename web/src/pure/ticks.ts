// Where axes are labelled.

import { value } from "./format";
import type { Column } from "./history";
import { padded, type Scale } from "./scale";

export interface Tick {
  /** Along the axis, of [0, 1]. */
  readonly at: number;
  readonly label: string;
}

/** 1, 2 or 5 times a power of ten, and at least `atLeast`, which is above 0. */
export function roundStep(atLeast: number): number {
  const power = 10 ** Math.floor(Math.log10(atLeast));
  return [1, 2, 5].map((factor) => factor * power).find((step) => step >= atLeast) ?? 10 * power;
}

/** As roundStep, of what is counted. */
function wholeStep(atLeast: number): number {
  return roundStep(Math.max(1, atLeast));
}

/** Of `cells` cells side by side, at their middles; each stands for `block` elements. */
export function cellTicks(cells: number, block: number, wanted: number): Tick[] {
  const step = wholeStep((cells * block) / Math.max(1, wanted));
  const ticks: Tick[] = [];
  for (let element = 0; element < cells * block; element += step)
    ticks.push({ at: (Math.floor(element / block) + 0.5) / cells, label: String(element) });
  return ticks;
}

/** Of columns over time, at round steps; width: columns that there is room for. */
export function stepTicks(columns: readonly Column[], width: number, wanted: number): Tick[] {
  const step = wholeStep(width / Math.max(1, wanted));
  return columns.flatMap((column, at) =>
    column.step !== null && column.step % step === 0 ? [{ at: (at + 0.5) / width, label: String(column.step) }] : [],
  );
}

/** Of values from the bottom up, at round ones, for lines in a plot of the padded scale. */
export function valueTicks(scale: Scale, wanted: number): Tick[] {
  const { least, greatest } = padded(scale);
  const tick = (of: number): Tick => ({ at: (greatest - of) / (greatest - least), label: value(of) });
  if (scale.only !== undefined) return [tick(scale.only)];
  const step = roundStep((scale.greatest - scale.least) / wanted);
  const ticks: Tick[] = [];
  // A little wider, for ends that are round themselves and not exact in binary.
  for (let at = Math.ceil(scale.least / step - 1e-9); at <= scale.greatest / step + 1e-9; at++) {
    const one = tick(at === 0 ? 0 : Number((at * step).toPrecision(12)));
    if (ticks.at(-1)?.label !== one.label) ticks.push(one);
  }
  return ticks;
}
