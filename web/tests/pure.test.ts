import { describe, expect, test } from "vitest";
import { waitAfter } from "../src/pure/backoff";
import { SHADES, shades } from "../src/pure/colour";
import { bytes, counted, duration, latency, value } from "../src/pure/format";
import { BLANK, dimmed, NOT_FINITE, paintColumn, pixelOf } from "../src/pure/paint";
import { hrefs, routeOf } from "../src/pure/routing";
import { drawable, inWords, pinned, rangeOf } from "../src/pure/scale";
import { cellTicks, roundStep, stepTicks, valueTicks } from "../src/pure/ticks";
import { nested, rowsOf, textOf, within } from "../src/pure/typed";

describe("routes", () => {
  test.each([
    ["", { view: "models" }],
    ["#/", { view: "models" }],
    ["#/sessions", { view: "sessions", model: "" }],
    ["#/sessions?model=copy-ff", { view: "sessions", model: "copy-ff" }],
    ["#/nowhere", { view: "unknown", path: "nowhere" }],
    ["#/sessions/%E0%A4%A", { view: "unknown", path: "sessions/%E0%A4%A" }],
  ])("%s", (hash, route) => {
    expect(routeOf(hash)).toEqual(route);
  });

  test("lead to every id that a session can have", () => {
    const id = "aZ0._~:@+-";
    expect(routeOf(hrefs.session(id))).toEqual({ view: "session", id });
  });
});

describe("a scale", () => {
  test("is of the finite values", () => {
    expect(rangeOf([3, Number.NaN, -1, Number.POSITIVE_INFINITY])).toEqual({ least: -1, greatest: 3 });
    expect(rangeOf([Number.NaN])).toBeNull();
  });

  test("has a width also where all values are the same", () => {
    const { least, greatest, only } = drawable({ least: 0, greatest: 0 }, "even");
    expect(only).toBe(0);
    expect(least).toBeLessThan(0);
    expect(greatest).toBeGreaterThan(0);
  });

  test("of one value tells that value, and not the room around it", () => {
    expect(inWords(drawable({ least: 18, greatest: 18 }, "even"))).toBe("all 18");
    expect(inWords(drawable({ least: 0, greatest: 18 }, "even"))).toBe("0 to 18");
    expect(valueTicks(drawable({ least: 18, greatest: 18 }, "even"), 3).map(({ label }) => label)).toEqual(["18"]);
  });

  test("of signed values has 0 in the middle", () => {
    expect(drawable({ least: -1, greatest: 3 }, "signed")).toEqual({ least: -3, greatest: 3 });
  });

  test.each([
    ["-1", "2.5", { least: -1, greatest: 2.5 }],
    ["", "1", 'expected the least value as a number, got ""'],
    ["0", "x", 'expected the greatest value as a number, got "x"'],
    ["2", "1", "expected the least value to be below the greatest, got 2 and 1"],
  ])("that is typed as %j to %j", (least, greatest, said) => {
    expect(pinned(least, greatest)).toEqual(said);
  });
});

describe("painting", () => {
  const map = shades("even");
  const scale = { least: 0, greatest: 1 };

  test("shows the ends, what is beyond them, and what is no number", () => {
    expect(pixelOf(0, scale, map)).toBe(map[0]);
    expect(pixelOf(7, scale, map)).toBe(map[SHADES - 1]);
    expect(pixelOf(Number.NaN, scale, map)).toBe(NOT_FINITE);
  });

  test("a column leaves its neighbours as they were", () => {
    const pixels = new Uint32Array(6);
    paintColumn(pixels, 1, 3, [0, 1], 0, 2, scale, map);
    expect(Array.from(pixels)).toEqual([BLANK, map[0], BLANK, BLANK, map[SHADES - 1], BLANK]);
  });

  test("a faint pixel keeps its colour", () => {
    expect(dimmed(0xff123456)).toBe(0x48123456);
  });
});

describe("ticks", () => {
  test.each([
    [1, 1],
    [3, 5],
    [11, 20],
    [51, 100],
    [0.03, 0.05],
  ])("are round: at least %d is %d", (atLeast, step) => {
    expect(roundStep(atLeast)).toBe(step);
  });

  test("of a reduced axis name its elements", () => {
    expect(cellTicks(4, 8, 4)).toEqual([
      { at: 0.125, label: "0" },
      { at: 0.375, label: "10" },
      { at: 0.625, label: "20" },
      { at: 0.875, label: "30" },
    ]);
  });

  test("of steps stand at the columns that have them", () => {
    const columns = [8, 9, null, 20].map((step) => ({ step, frame: null, exact: false }));
    expect(stepTicks(columns, 8, 1)).toEqual([{ at: 3.5 / 8, label: "20" }]);
  });
});

describe("ticks of values", () => {
  const labels = (least: number, greatest: number) => valueTicks({ least, greatest }, 3).map(({ label }) => label);

  test.each([
    [0, 1, ["0", "0.5", "1"]],
    [-0.3, 0.3, ["-0.2", "0", "0.2"]],
    [2, 18, ["10"]],
    [0, 0.6, ["0", "0.2", "0.4", "0.6"]],
  ])("of %d to %d are round", (least, greatest, expected) => {
    expect(labels(least, greatest)).toEqual(expected);
  });

  test("stand where the value is drawn, the greatest on top and within the plot", () => {
    const [bottom, top] = valueTicks({ least: 0, greatest: 1 }, 1);
    expect(bottom?.at).toBeCloseTo(1.06 / 1.12);
    expect(top?.at).toBeCloseTo(0.06 / 1.12);
  });

  test("are not told twice where a few characters do not tell them apart", () => {
    expect(labels(1234.5001, 1234.5009)).toHaveLength(1);
  });
});

describe("what is typed", () => {
  const x = { name: "x", dtype: "float32", shape: [2], role: "", range: null };

  test("is numbers of each step", () => {
    expect(rowsOf("0 1\n\n0.5, -2\n", x, 8)).toEqual([
      [0, 1],
      [0.5, -2],
    ]);
    expect(
      textOf([
        [0, 1],
        [0.5, -2],
      ]),
    ).toBe("0 1\n0.5 -2");
  });

  test.each([
    ["", "x: expected a line for each step, got none"],
    ["1", "x, line 1: expected 2 numbers, got 1"],
    ["0 1\n1 a", 'x, line 2: expected a number, got "a"'],
    ["0 1\n0 1\n0 1", "x: expected at most 2 steps, got 3"],
  ])("as %j is refused", (text, said) => {
    expect(rowsOf(text, x, 2)).toBe(said);
  });

  test("for whole numbers is whole", () => {
    expect(rowsOf("0 0.5", { ...x, dtype: "int64" }, 2)).toBe("x, line 1: expected whole numbers, as it is int64");
  });

  test("is of the input's range", () => {
    const token = { ...x, dtype: "int64", range: { min: -1, max: 7 } };
    expect(rowsOf("-1 7", token, 2)).toEqual([[-1, 7]]);
    expect(rowsOf("0 7\n8 -2", token, 2)).toBe("x, line 2: expected numbers from -1 to 7, got 8");
    expect([-5, 3, 9].map((number) => within(token, number))).toEqual([-1, 3, 7]);
    expect(within(x, 9.5)).toBe(9.5);
  });

  test("becomes arrays within arrays", () => {
    expect(nested([1, 2, 3, 4, 5, 6], [3, 2])).toEqual([
      [1, 2],
      [3, 4],
      [5, 6],
    ]);
    expect(nested([7], [])).toBe(7);
  });
});

describe("waiting", () => {
  test("grows to a limit, and is never in step with others", () => {
    expect([1, 2, 3, 9].map((failures) => waitAfter(failures, 1))).toEqual([0.5, 1, 2, 8]);
    expect(waitAfter(9, 0)).toBe(4);
  });
});

describe("numbers for people", () => {
  test("are short", () => {
    expect([512, 11344, 3 * 2 ** 20].map(bytes)).toEqual(["512 B", "11.1 KiB", "3.0 MiB"]);
    expect([0.25, 59, 600, 7200, 200000].map(duration)).toEqual(["0.3 s", "59 s", "10 min", "2 h", "2 d"]);
    expect([0.98123, 0, -3.2e-5, 1200, Number.NaN].map(value)).toEqual(["0.981", "0", "-3.2e-5", "1,200", "NaN"]);
    expect([0.00061, 0.0123, 1.25].map(latency)).toEqual(["0.61 ms", "12 ms", "1.3 s"]);
    expect([1, 2].map((count) => counted(count, "step"))).toEqual(["1 step", "2 steps"]);
  });
});
