import { describe, expect, test } from "vitest";
import { byTensor, inShort, PICTURES_MAX, viewsOf, viewsOfState } from "../src/pure/views";

const tensor = (name: string, role: string, shape: number[]) => ({ name, role, shape });

const told = (name: string, role: string, shape: number[]) =>
  viewsOf({ name, role, shape }).map(
    (view) => `${view.title}: ${view.kind} ${view.rows}x${view.columns} @${view.offset}`,
  );

describe("a tensor is drawn", () => {
  test.each([
    ["memory", "memory", [128, 20], ["memory: matrix 128x20 @0"]],
    ["memory", "memory", [2, 3], ["memory: matrix 2x3 @0"]],
    [
      "read_weighting",
      "read_weighting",
      [2, 64],
      ["read weighting, head 0: strip 1x64 @0", "read weighting, head 1: strip 1x64 @64"],
    ],
    ["usage", "usage", [64], ["usage: strip 1x64 @0"]],
    ["link", "link", [64, 64], ["link: matrix 64x64 @0"]],
    ["link", "link", [2, 64, 64], ["link, head 0: matrix 64x64 @0", "link, head 1: matrix 64x64 @4096"]],
    ["cell", "", [100], ["cell: strip 1x100 @0"]],
    ["keys", "", [2, 20], ["keys, part 0: strip 1x20 @0", "keys, part 1: strip 1x20 @20"]],
    ["cache", "", [32, 20], ["cache: matrix 32x20 @0"]],
    ["cache", "", [2, 32, 20], ["cache, part 0: matrix 32x20 @0", "cache, part 1: matrix 32x20 @640"]],
    ["count", "", [], ["count: strip 1x1 @0"]],
    ["memory", "memory", [100], ["memory: strip 1x100 @0"]],
  ] as const)("%s of role %j and shape %j", (name, role, shape, expected) => {
    expect(told(name, role, [...shape])).toEqual(expected);
  });

  test("in so many pictures at most", () => {
    expect(told("cache", "", [100, 100, 8, 8])).toHaveLength(PICTURES_MAX);
  });

  test("together with the others of its tensor", () => {
    const views = viewsOfState([tensor("cache", "", [2, 8, 4]), tensor("memory", "memory", [8, 4])]);
    expect(byTensor(views).map((group) => group.map(({ title }) => title))).toEqual([
      ["memory"],
      ["cache, part 0", "cache, part 1"],
    ]);
  });

  test.each([
    [[tensor("gru_h", "controller", [100]), tensor("memory", "memory", [128, 20])], "memory 128 × 20"],
    [[tensor("gru_h", "controller", [100]), tensor("cell_state", "", [])], "gru h 100"],
    [[tensor("count", "", [])], "count 1"],
    [[], "none"],
  ])("and told in short %#", (state, expected) => {
    expect(inShort(state)).toBe(expected);
  });

  test("with the telling ones of a state first", () => {
    const state = ["controller", "read_weighting", "link", "memory", "write_weighting"].map((role) => ({
      name: role,
      role,
      shape: [8, 8],
    }));
    expect([...new Set(viewsOfState(state).map((view) => view.role))]).toEqual([
      "memory",
      "write_weighting",
      "read_weighting",
      "link",
      "controller",
    ]);
  });
});
