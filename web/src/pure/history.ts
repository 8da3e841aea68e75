// What was seen of a session: the latest frames of its state, and its steps' inputs and outputs.
//
// Frames are in the order of their steps. A session that was taken back has as its history what led to where it stands.
// While it is held, a full history takes nothing more, so that what somebody looks at stays.

import type { Picture, WireFrame } from "./wire";
import { pictureOf } from "./wire";

/** Most frames that are kept, and most bytes of them: what a browser's tab can spare. */
export const FRAMES_MAX = 600;
export const FRAME_BYTES_MAX = 64 * 2 ** 20;

/** Inputs and outputs of so many of the latest steps are kept: a message may have many, and its frame is one. */
export const STEPS_MAX = 4 * FRAMES_MAX;

export interface Frame {
  /** Steps that led to this state. */
  readonly nextStep: number;
  readonly takenAtS: number;
  readonly lost: number;
  readonly state: readonly Picture[];
}

/** One step's values of a tensor. */
export type Row = Float32Array;

export interface StepRow {
  readonly inputs: ReadonlyMap<string, Row>;
  readonly outputs: ReadonlyMap<string, Row>;
}

/** A column of the pictures over time. */
export interface Column {
  /** Its step; null for steps of which nothing was seen. */
  readonly step: number | null;
  /** The frame after that step, or the next one seen; by place in the history. Null where none was seen around it. */
  readonly frame: number | null;
  /** Whether that frame is of this very step. */
  readonly exact: boolean;
}

function frameBytes(frame: Frame): number {
  return frame.state.reduce((sum, picture) => sum + picture.data.byteLength, 0);
}

function rowsOf(pictures: readonly WireFrame["inputs"][number][]): Map<string, Row[]> {
  return new Map(
    pictures.map((wire) => {
      const picture = pictureOf(wire);
      const steps = picture.shape[0] ?? 0;
      const size = steps ? picture.data.length / steps : 0;
      return [
        picture.name,
        Array.from({ length: steps }, (_, at) => picture.data.subarray(at * size, (at + 1) * size)),
      ];
    }),
  );
}

function rowAt(rows: ReadonlyMap<string, readonly Row[]>, at: number): Map<string, Row> {
  const found = new Map<string, Row>();
  for (const [name, of] of rows) {
    const row = of[at];
    if (row) found.set(name, row);
  }
  return found;
}

export class History {
  private kept: Frame[] = [];
  private readonly steps = new Map<number, StepRow>();
  private bytes = 0;
  /** Whether what is here must stay. */
  held = false;

  constructor(
    private readonly framesMax = FRAMES_MAX,
    private readonly bytesMax = FRAME_BYTES_MAX,
  ) {}

  get frames(): readonly Frame[] {
    return this.kept;
  }

  get latest(): Frame | null {
    return this.kept.at(-1) ?? null;
  }

  /** Inputs and outputs of a step, if they were seen. */
  row(step: number): StepRow | undefined {
    return this.steps.get(step);
  }

  /** Take a frame; false where it was left out because the history is held and full. */
  add(wire: WireFrame): boolean {
    if (this.held && this.isFull()) return false;
    const latest = this.latest;
    if (latest && wire.next_step < latest.nextStep) this.takeBack(wire.next_step);
    this.addRows(wire);
    if (this.latest?.nextStep === wire.next_step) this.drop(this.kept.pop());
    const frame: Frame = {
      nextStep: wire.next_step,
      takenAtS: wire.taken_at_s,
      lost: wire.lost,
      state: wire.state.map(pictureOf),
    };
    this.kept.push(frame);
    this.bytes += frameBytes(frame);
    while (this.kept.length > 1 && this.isOver()) this.drop(this.kept.shift());
    this.forget();
    return true;
  }

  /** Columns of the steps that were seen, oldest first; steps of which nothing was seen are one column together. */
  columns(): Column[] {
    const seen = new Set<number>(this.steps.keys());
    for (const frame of this.kept) if (frame.nextStep > 0) seen.add(frame.nextStep - 1);
    const columns: Column[] = [];
    let frame = 0;
    let before: number | null = null;
    for (const step of [...seen].sort((one, other) => one - other)) {
      if (before !== null && step > before + 1) columns.push({ step: null, frame: null, exact: false });
      while (frame < this.kept.length && (this.kept[frame]?.nextStep ?? 0) <= step) frame++;
      const exact = this.kept[frame]?.nextStep === step + 1;
      // What came before the first frame is not known to be like it.
      const known = exact || (frame > 0 && frame < this.kept.length);
      columns.push({ step, frame: known ? frame : null, exact });
      before = step;
    }
    return columns;
  }

  private isFull(): boolean {
    return this.kept.length >= this.framesMax || this.bytes >= this.bytesMax;
  }

  private isOver(): boolean {
    return this.kept.length > this.framesMax || this.bytes > this.bytesMax;
  }

  private addRows(wire: WireFrame): void {
    const inputs = rowsOf(wire.inputs);
    const outputs = rowsOf(wire.outputs);
    for (let step = wire.first_step; step < wire.next_step; step++) {
      const at = step - wire.first_step;
      const row = { inputs: rowAt(inputs, at), outputs: rowAt(outputs, at) };
      if (row.inputs.size || row.outputs.size) this.steps.set(step, row);
    }
  }

  private takeBack(nextStep: number): void {
    while ((this.latest?.nextStep ?? 0) > nextStep) this.drop(this.kept.pop());
    for (const step of this.steps.keys()) if (step >= nextStep) this.steps.delete(step);
  }

  private drop(frame: Frame | undefined): void {
    if (frame) this.bytes -= frameBytes(frame);
  }

  private forget(): void {
    const oldest = (this.latest?.nextStep ?? 0) - STEPS_MAX;
    for (const step of this.steps.keys()) if (step < oldest) this.steps.delete(step);
  }
}
