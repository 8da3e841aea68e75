// Colour maps, computed in OKLab (Ottosson 2020) so that equal steps of the value look equal.
//
// Of "even" and "grey" the lightness is linear in the value: the value can be read back from a pixel, and from a grey print.

export type MapName = "even" | "signed" | "grey";

export const MAP_NAMES: readonly MapName[] = ["even", "signed", "grey"];

/** Entries of a map. */
export const SHADES = 256;

/** Lightness of the least and the greatest value. */
export const LIGHTNESS = { least: 0.24, greatest: 0.94 } as const;

type Rgb = readonly [number, number, number];

const RADIANS = Math.PI / 180;

function linearOfOklab(lightness: number, a: number, b: number): Rgb {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

function encoded(linear: number): number {
  const share = linear <= 0.0031308 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055;
  return Math.round(255 * Math.min(1, Math.max(0, share)));
}

/** sRGB of a colour in OKLCh; where the screen has no such colour, of one that is as light and less vivid. */
export function rgbOfOklch(lightness: number, chroma: number, hue: number): Rgb {
  const at = (c: number): Rgb => linearOfOklab(lightness, c * Math.cos(hue * RADIANS), c * Math.sin(hue * RADIANS));
  const shown = (rgb: Rgb) => rgb.every((one) => one >= -1e-4 && one <= 1 + 1e-4);
  let [low, high] = [0, chroma];
  if (shown(at(chroma))) low = chroma;
  for (let turn = 0; turn < 24 && low < chroma; turn++) {
    const middle = (low + high) / 2;
    if (shown(at(middle))) low = middle;
    else high = middle;
  }
  const [r, g, b] = at(low);
  return [encoded(r), encoded(g), encoded(b)];
}

function even(share: number): Rgb {
  const lightness = LIGHTNESS.least + (LIGHTNESS.greatest - LIGHTNESS.least) * share;
  // From violet over blue and green to yellow.
  return rgbOfOklch(lightness, 0.11 + 0.07 * share, 305 - 200 * share);
}

function grey(share: number): Rgb {
  return rgbOfOklch(LIGHTNESS.least + (LIGHTNESS.greatest - LIGHTNESS.least) * share, 0, 0);
}

function signed(share: number): Rgb {
  const distance = Math.abs(2 * share - 1);
  return rgbOfOklch(0.95 - 0.5 * distance, 0.17 * distance, share < 0.5 ? 255 : 35);
}

const SHADE_OF: Record<MapName, (share: number) => Rgb> = { even, signed, grey };

/** The map as SHADES pixels, each a little-endian RGBA word, as ImageData has them. */
export function shadesOf(name: MapName): Uint32Array {
  const words = new Uint32Array(SHADES);
  for (let index = 0; index < SHADES; index++) {
    const [r, g, b] = SHADE_OF[name](index / (SHADES - 1));
    words[index] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }
  return words;
}

const made = new Map<MapName, Uint32Array>();

/** As shadesOf, computed once. */
export function shades(name: MapName): Uint32Array {
  const known = made.get(name) ?? shadesOf(name);
  made.set(name, known);
  return known;
}
