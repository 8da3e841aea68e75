// Inputs as people type them: a line for each step, numbers separated by spaces or commas.

import type { TensorSpec } from "./wire";

type Nested = number | Nested[];

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, axis) => product * axis, 1);
}

/** The numbers of each line, or what is wrong with them. stepsMax: most lines. */
export function rowsOf(text: string, spec: TensorSpec, stepsMax: number): number[][] | string {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const size = sizeOf(spec.shape);
  if (lines.length === 0) return `${spec.name}: expected a line for each step, got none`;
  if (lines.length > stepsMax) return `${spec.name}: expected at most ${stepsMax} steps, got ${lines.length}`;
  const rows: number[][] = [];
  for (const [index, line] of lines.entries()) {
    const words = line.trim().split(/[\s,;]+/);
    if (words.length !== size) return `${spec.name}, line ${index + 1}: expected ${size} numbers, got ${words.length}`;
    const row = words.map(Number);
    const wrong = row.findIndex((number) => !Number.isFinite(number));
    if (wrong >= 0) return `${spec.name}, line ${index + 1}: expected a number, got "${words[wrong]}"`;
    if (!spec.dtype.startsWith("float") && row.some((number) => !Number.isInteger(number)))
      return `${spec.name}, line ${index + 1}: expected whole numbers, as it is ${spec.dtype}`;
    const beyond = row.find((number) => within(spec, number) !== number);
    if (beyond !== undefined)
      return `${spec.name}, line ${index + 1}: expected numbers ${rangeInWords(spec)}, got ${beyond}`;
    rows.push(row);
  }
  return rows;
}

/** The number of an input's range that is nearest. */
export function within({ range }: TensorSpec, number: number): number {
  return range ? Math.min(Math.max(number, range.min), range.max) : number;
}

/** Of an input that has a range. */
export function rangeInWords({ range }: TensorSpec): string {
  return range ? `from ${range.min} to ${range.max}` : "";
}

export function textOf(rows: readonly (readonly number[])[]): string {
  return rows.map((row) => row.join(" ")).join("\n");
}

/** A step's numbers as arrays within arrays, of its shape. */
export function nested(row: readonly number[], shape: readonly number[]): Nested {
  const [axis, ...rest] = shape;
  if (axis === undefined) return row[0] ?? 0;
  const size = sizeOf(rest);
  return Array.from({ length: axis }, (_, at) => nested(row.slice(at * size, (at + 1) * size), rest));
}
