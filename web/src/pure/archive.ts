// The history as arrays for numpy: what `np.load` gives of an exported npz.
//
// step [F] steps that led to each frame's state; lost [F]; taken_at_s [F]; state.NAME [F, ...]; blocks.NAME where the server
// reduced it; io_step [T] and inputs.NAME, outputs.NAME [T, ...] of the steps whose inputs and outputs were seen.

import type { History, StepRow } from "./history";
import type { NamedArray } from "./npy";
import { isReduced, type Picture } from "./wire";

function integers(name: string, values: readonly number[]): NamedArray {
  return { name, shape: [values.length], data: BigInt64Array.from(values, BigInt) };
}

function joined(name: string, shape: readonly number[], parts: readonly Float32Array[]): NamedArray {
  const size = shape.reduce((product, axis) => product * axis, 1);
  const data = new Float32Array(parts.length * size);
  for (const [at, part] of parts.entries()) data.set(part, at * size);
  return { name, shape: [parts.length, ...shape], data };
}

function ofState(history: History): NamedArray[] {
  const { frames } = history;
  return (frames[0]?.state ?? []).flatMap((first) => {
    const parts = frames.map(
      (frame) => frame.state.find((one) => one.name === first.name)?.data ?? new Float32Array(0),
    );
    const array = joined(`state.${first.name}`, first.shape, parts);
    return isReduced(first) ? [array, integers(`blocks.${first.name}`, first.blocks)] : [array];
  });
}

/** shapes: of one step of each input and output. */
export function archiveOf(
  history: History,
  shapes: { inputs: readonly Shape[]; outputs: readonly Shape[] },
): NamedArray[] {
  const { frames } = history;
  const seen = history.columns().flatMap(({ step }) => {
    const row = step === null ? undefined : history.row(step);
    return step !== null && row ? [{ step, row }] : [];
  });
  const io = (kind: keyof StepRow) =>
    shapes[kind].map(({ name, shape }) =>
      joined(
        `${kind}.${name}`,
        shape,
        seen.map(({ row }) => row[kind].get(name) ?? new Float32Array(0)),
      ),
    );
  return [
    integers(
      "step",
      frames.map((frame) => frame.nextStep),
    ),
    integers(
      "lost",
      frames.map((frame) => frame.lost),
    ),
    { name: "taken_at_s", shape: [frames.length], data: Float64Array.from(frames, (frame) => frame.takenAtS) },
    ...ofState(history),
    integers(
      "io_step",
      seen.map(({ step }) => step),
    ),
    ...io("inputs"),
    ...io("outputs"),
  ];
}

export type Shape = Pick<Picture, "name" | "shape">;
