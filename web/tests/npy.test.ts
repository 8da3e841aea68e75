import { unzipSync } from "fflate";
import { describe, expect, test } from "vitest";
import { npy, npz } from "../src/pure/npy";

function headerOf(file: Uint8Array): string {
  const length = new DataView(file.buffer, file.byteOffset).getUint16(8, true);
  return new TextDecoder().decode(file.subarray(10, 10 + length));
}

describe("npy", () => {
  test("has the header that numpy reads, and data at a multiple of 64", () => {
    const file = npy({ name: "a", shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) });
    expect(Array.from(file.subarray(0, 8))).toEqual([0x93, ...Array.from("NUMPY", (one) => one.charCodeAt(0)), 1, 0]);
    expect(headerOf(file)).toMatch(/^\{'descr': '<f4', 'fortran_order': False, 'shape': \(2, 3\), \} *\n$/);
    expect((file.length - 24) % 64).toBe(0);
    expect(new Float32Array(file.slice(-24).buffer)).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
  });

  test.each([
    [[], Float64Array.of(1), "'<f8'", "()"],
    [[1], Uint8Array.of(1), "'|u1'", "(1,)"],
    [[2], BigInt64Array.of(1n, 2n), "'<i8'", "(2,)"],
    [[0, 4], new Float32Array(0), "'<f4'", "(0, 4)"],
  ])("writes shape %j", (shape, data, dtype, axes) => {
    const header = headerOf(npy({ name: "a", shape, data }));
    expect(header).toContain(`'descr': ${dtype}`);
    expect(header).toContain(`'shape': ${axes}`);
  });

  test("refuses a shape that does not hold the data", () => {
    expect(() => npy({ name: "a", shape: [2], data: Float32Array.of(1) })).toThrow(
      "a: expected 2 values for [2], got 1",
    );
  });

  test("npz is a zip of them", () => {
    const files = unzipSync(npz([{ name: "state.memory", shape: [1], data: Float32Array.of(7) }]));
    expect(Object.keys(files)).toEqual(["state.memory.npy"]);
  });
});
