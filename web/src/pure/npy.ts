// Arrays as numpy reads them: the npy format, version 1.0, and npz, a zip of them.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

import { zipSync } from "fflate";

export type NumberArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array;

export interface NamedArray {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: NumberArray;
}

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0];

/** The header and the data begin at a multiple of this, so that they can be mapped. */
const ALIGNMENT = 64;

function descriptorOf(data: NumberArray): string {
  const size = data.BYTES_PER_ELEMENT;
  const kind =
    data instanceof Float32Array || data instanceof Float64Array
      ? "f"
      : data instanceof Uint8Array ||
          data instanceof Uint16Array ||
          data instanceof Uint32Array ||
          data instanceof BigUint64Array
        ? "u"
        : "i";
  return size === 1 ? `|${kind}1` : `<${kind}${size}`;
}

/** One array as the bytes of an npy file. Throws where the shape does not hold the data. */
export function npy({ name, shape, data }: NamedArray): Uint8Array {
  const size = shape.reduce((product, axis) => product * axis, 1);
  if (size !== data.length) throw new RangeError(`${name}: expected ${size} values for [${shape}], got ${data.length}`);
  const axes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const header = `{'descr': '${descriptorOf(data)}', 'fortran_order': False, 'shape': (${axes}), }`;
  const preamble = MAGIC.length + 2;
  const padded = Math.ceil((preamble + header.length + 1) / ALIGNMENT) * ALIGNMENT - preamble;
  const file = new Uint8Array(preamble + padded + data.byteLength);
  file.set(MAGIC);
  new DataView(file.buffer).setUint16(MAGIC.length, padded, true);
  file.set(new TextEncoder().encode(`${header.padEnd(padded - 1)}\n`), preamble);
  file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), preamble + padded);
  return file;
}

/** Arrays as the bytes of an npz file. */
export function npz(arrays: readonly NamedArray[]): Uint8Array<ArrayBuffer> {
  const files = Object.fromEntries(arrays.map((one) => [`${one.name}.npy`, npy(one)]));
  return zipSync(files, { level: 6 });
}
