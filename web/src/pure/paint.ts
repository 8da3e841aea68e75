// Values to pixels: one pixel a value. The browser enlarges them, and does not smooth.

import { SHADES } from "./colour";
import type { Scale } from "./scale";

/** Drawn where there is no value: nothing. */
export const BLANK = 0;

/** Of NaN and infinity: red. */
export const NOT_FINITE = 0xff2020e0;

/** The word of a pixel, for a value on a scale. */
export function pixelOf(value: number, scale: Scale, shades: Uint32Array): number {
  if (!Number.isFinite(value)) return NOT_FINITE;
  const share = (value - scale.least) / (scale.greatest - scale.least);
  const index = Math.round(Math.min(1, Math.max(0, share)) * (SHADES - 1));
  return shades[index] ?? BLANK;
}

/** Values [rows, columns] from offset on, one pixel each, into the picture's pixels. */
export function paintMatrix(
  pixels: Uint32Array,
  values: ArrayLike<number>,
  offset: number,
  scale: Scale,
  shades: Uint32Array,
): void {
  for (let at = 0; at < pixels.length; at++) pixels[at] = pixelOf(values[offset + at] ?? Number.NaN, scale, shades);
}

/** One step's values as a column of pixels, the first value on top. width: of the picture, in pixels. */
export function paintColumn(
  pixels: Uint32Array,
  column: number,
  width: number,
  values: ArrayLike<number>,
  offset: number,
  length: number,
  scale: Scale,
  shades: Uint32Array,
): void {
  for (let at = 0; at < length; at++)
    pixels[at * width + column] = pixelOf(values[offset + at] ?? Number.NaN, scale, shades);
}

/** The pixel, faint: of a step whose own state was not seen. */
export function dimmed(pixel: number): number {
  return ((pixel & 0x00ffffff) | (0x48 << 24)) >>> 0;
}
