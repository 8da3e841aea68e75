import { describe, expect, test } from "vitest";
import { LIGHTNESS, MAP_NAMES, SHADES, shadesOf } from "../src/pure/colour";

function linear(byte: number): number {
  const share = byte / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
}

/** The lightness of OKLab, from a pixel: by the matrices of Ottosson's definition, which are not those of the map. */
function lightnessOf(word: number): number {
  const [r, g, b] = [word & 255, (word >>> 8) & 255, (word >>> 16) & 255].map(linear) as [number, number, number];
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return 0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s;
}

describe("a colour map", () => {
  test.each(["even", "grey"] as const)("has a lightness that is linear in the value: %s", (name) => {
    const words = shadesOf(name);
    for (const [index, word] of words.entries()) {
      const share = index / (SHADES - 1);
      const expected = LIGHTNESS.least + (LIGHTNESS.greatest - LIGHTNESS.least) * share;
      expect(lightnessOf(word)).toBeCloseTo(expected, 2);
    }
  });

  test("has another colour for nearly every shade", () => {
    expect(new Set(shadesOf("even")).size).toBeGreaterThan(250);
  });

  test("for signed values is light in the middle, and as light at both ends", () => {
    const words = shadesOf("signed");
    const [least, middle, greatest] = [0, SHADES / 2, SHADES - 1].map((at) => lightnessOf(words[at] ?? 0));
    expect(middle).toBeGreaterThan(0.93);
    expect(least).toBeCloseTo(greatest ?? 0, 1);
    expect(least).toBeLessThan(0.6);
  });

  test.each(MAP_NAMES)("is opaque: %s", (name) => {
    for (const word of shadesOf(name)) expect(word >>> 24).toBe(255);
  });
});
