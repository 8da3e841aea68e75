// What values the ends of the colour scale stand for.

import type { MapName } from "./colour";
import { value } from "./format";

export interface Scale {
  readonly least: number;
  readonly greatest: number;
  /** The one value that there is, where the ends are no values but room around it. */
  readonly only?: number;
}

/** The least and greatest of the finite values; null where there are none. */
export function rangeOf(values: Iterable<number>): Scale | null {
  let least = Number.POSITIVE_INFINITY;
  let greatest = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (value < least && value !== Number.NEGATIVE_INFINITY) least = value;
    if (value > greatest && value !== Number.POSITIVE_INFINITY) greatest = value;
  }
  return least <= greatest ? { least, greatest } : null;
}

export function joined(one: Scale | null, other: Scale | null): Scale | null {
  if (!one || !other) return one ?? other;
  return { least: Math.min(one.least, other.least), greatest: Math.max(one.greatest, other.greatest) };
}

/** The scale to draw a range with: of a width, and for signed maps the same to both sides of 0. */
export function drawable(range: Scale | null, map: MapName): Scale {
  let { least, greatest } = range ?? { least: 0, greatest: 1 };
  if (map === "signed") {
    const reach = Math.max(Math.abs(least), Math.abs(greatest));
    [least, greatest] = [-reach, reach];
  }
  if (least === greatest) {
    const margin = Math.max(Math.abs(least) * 0.1, 1e-6);
    return { least: least - margin, greatest: greatest + margin, only: least };
  }
  return { least, greatest };
}

/** What a plot of lines shows: a little more than the scale, so that no line lies on its edge. */
export function padded({ least, greatest }: Scale): Scale {
  const margin = 0.06 * (greatest - least);
  return { least: least - margin, greatest: greatest + margin };
}

/** What its colours stand for, in words. */
export function inWords({ least, greatest, only }: Scale): string {
  return only === undefined ? `${value(least)} to ${value(greatest)}` : `all ${value(only)}`;
}

/** The scale that two typed numbers say, or why they say none. */
export function pinned(least: string, greatest: string): Scale | string {
  const scale = { least: Number(least), greatest: Number(greatest) };
  if (least.trim() === "" || !Number.isFinite(scale.least))
    return `expected the least value as a number, got "${least}"`;
  if (greatest.trim() === "" || !Number.isFinite(scale.greatest))
    return `expected the greatest value as a number, got "${greatest}"`;
  if (scale.least >= scale.greatest)
    return `expected the least value to be below the greatest, got ${least} and ${greatest}`;
  return scale;
}
