// Where axes are labelled.

import type { Column } from "./history";

export interface Tick {
  /** Along the axis, of [0, 1]. */
  readonly at: number;
  readonly label: string;
}

/** 1, 2 or 5 times a power of ten, and at least `atLeast`. */
export function roundStep(atLeast: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, atLeast)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= atLeast) ?? power;
}

/** Of `cells` cells side by side, at their middles; each stands for `block` elements. */
export function cellTicks(cells: number, block: number, wanted: number): Tick[] {
  const step = roundStep((cells * block) / Math.max(1, wanted));
  const ticks: Tick[] = [];
  for (let element = 0; element < cells * block; element += step)
    ticks.push({ at: (Math.floor(element / block) + 0.5) / cells, label: String(element) });
  return ticks;
}

/** Of columns over time, at round steps; width: columns that there is room for. */
export function stepTicks(columns: readonly Column[], width: number, wanted: number): Tick[] {
  const step = roundStep(width / Math.max(1, wanted));
  return columns.flatMap((column, at) =>
    column.step !== null && column.step % step === 0 ? [{ at: (at + 0.5) / width, label: String(column.step) }] : [],
  );
}
