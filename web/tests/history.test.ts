import { describe, expect, test } from "vitest";
import { archiveOf } from "../src/pure/archive";
import { History } from "../src/pure/history";
import type { WireFrame, WirePicture } from "../src/pure/wire";

function base64(values: readonly number[]): string {
  return btoa(String.fromCharCode(...new Uint8Array(Float32Array.from(values).buffer)));
}

function picture(name: string, shape: readonly number[], values: readonly number[]): WirePicture {
  return {
    name,
    role: "",
    dtype: "float32",
    full_shape: shape,
    shape,
    blocks: shape.map(() => 1),
    data: base64(values),
  };
}

/** The state is the number of steps; each step's input its number, its output ten times that. */
function frame(nextStep: number, firstStep = nextStep - 1, lost = 0): WireFrame {
  const steps = Array.from({ length: nextStep - firstStep }, (_, at) => firstStep + at);
  return {
    next_step: nextStep,
    taken_at_s: nextStep / 10,
    lost,
    first_step: firstStep,
    tier: "resident",
    state: [picture("total", [1], [nextStep])],
    inputs: [picture("x", [steps.length, 1], steps)],
    outputs: [
      picture(
        "y",
        [steps.length, 1],
        steps.map((step) => 10 * step),
      ),
    ],
  };
}

function historyOf(...frames: WireFrame[]): History {
  const history = new History();
  for (const one of frames) history.add(one);
  return history;
}

describe("a history", () => {
  test("has a column for each step that was seen, with its frame", () => {
    expect(historyOf(frame(1), frame(2)).columns()).toEqual([
      { step: 0, frame: 0, exact: true },
      { step: 1, frame: 1, exact: true },
    ]);
  });

  test("gives steps without a state of their own the next frame, and says so", () => {
    expect(historyOf(frame(1), frame(4, 1)).columns().slice(1)).toEqual([
      { step: 1, frame: 1, exact: false },
      { step: 2, frame: 1, exact: false },
      { step: 3, frame: 1, exact: true },
    ]);
  });

  test("claims no state for steps before its first frame", () => {
    expect(
      historyOf(frame(3, 0))
        .columns()
        .map((column) => column.frame),
    ).toEqual([null, null, 0]);
  });

  test("shows steps that nobody saw as one column", () => {
    expect(
      historyOf(frame(1), frame(9, 7, 6))
        .columns()
        .map((column) => column.step),
    ).toEqual([0, null, 7, 8]);
  });

  test("has inputs and outputs by step", () => {
    const history = historyOf(frame(4, 1));
    expect(history.row(2)?.outputs.get("y")).toEqual(Float32Array.of(20));
    expect(history.row(4)).toBeUndefined();
  });

  test("forgets the oldest frames beyond its limit, in number", () => {
    const history = new History(3);
    for (let step = 1; step <= 5; step++) history.add(frame(step));
    expect(history.frames.map((one) => one.nextStep)).toEqual([3, 4, 5]);
  });

  test("forgets the oldest frames beyond its limit, in bytes", () => {
    const history = new History(100, 8);
    for (let step = 1; step <= 5; step++) history.add(frame(step));
    expect(history.frames.map((one) => one.nextStep)).toEqual([4, 5]);
  });

  test("takes nothing more while it is held and full, and goes on after", () => {
    const history = new History(2);
    history.add(frame(1));
    history.held = true;
    expect([2, 3].map((step) => history.add(frame(step)))).toEqual([true, false]);
    history.held = false;
    history.add(frame(4));
    expect(history.frames.map((one) => one.nextStep)).toEqual([2, 4]);
  });

  test("of a session that was taken back has what led to where it stands", () => {
    const history = historyOf(frame(1), frame(2), frame(3), frame(1, 1));
    expect(history.frames.map((one) => one.nextStep)).toEqual([1]);
    expect(history.row(1)).toBeUndefined();
    history.add(frame(2));
    expect(history.columns().map((column) => column.step)).toEqual([0, 1]);
  });

  test("shows a state that is told again once", () => {
    expect(historyOf(frame(1), frame(1, 1)).frames).toHaveLength(1);
  });

  test("refuses data of another length than their shape", () => {
    const wrong = { ...frame(1), state: [{ ...picture("total", [2], [1]) }] };
    expect(() => new History().add(wrong)).toThrow("total: expected 8 bytes for [2], got 4");
  });

  test("is exported as arrays with a frame or step first", () => {
    const shapes = { inputs: [{ name: "x", shape: [1] }], outputs: [{ name: "y", shape: [1] }] };
    const arrays = archiveOf(historyOf(frame(1), frame(4, 1)), shapes);
    const told = Object.fromEntries(arrays.map((one) => [one.name, [[...one.shape], Array.from(one.data, Number)]]));
    expect(told).toEqual({
      step: [[2], [1, 4]],
      lost: [[2], [0, 0]],
      taken_at_s: [[2], [0.1, 0.4]],
      "state.total": [
        [2, 1],
        [1, 4],
      ],
      io_step: [[4], [0, 1, 2, 3]],
      "inputs.x": [
        [4, 1],
        [0, 1, 2, 3],
      ],
      "outputs.y": [
        [4, 1],
        [0, 10, 20, 30],
      ],
    });
  });
});
