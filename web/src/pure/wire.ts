// What the HTTP API says, field by field: docs/http-api.md is its manual.

export interface ApiFault {
  readonly status: number;
  readonly code: string;
  readonly reason: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
  readonly retry_after_s: number | null;
}

/** Whole numbers, both bounds included. */
export interface WholeRange {
  readonly min: number;
  readonly max: number;
}

export interface TensorSpec {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly role: string;
  readonly range: WholeRange | null;
}

export interface Limits {
  readonly frames_per_s_max: number;
  readonly frames_per_s_default: number;
  readonly rows_max: number;
  readonly rows_default: number;
  readonly columns_max: number;
  readonly columns_default: number;
  readonly steps_per_message_max: number;
}

export interface Server {
  readonly access: "open" | "token" | "closed";
  readonly ready: boolean;
  readonly caller: { readonly name: string; readonly tenant: string; readonly roles: readonly string[] } | null;
  readonly version: string | null;
  readonly writes_allowed: boolean | null;
  readonly has_store: boolean | null;
  readonly durability: string | null;
  readonly limits: Limits | null;
}

export interface Point {
  readonly at_s: number;
  readonly steps_per_s: number;
  readonly messages_per_s: number;
  readonly latency_mean_s: number | null;
  readonly latency_p99_s: number | null;
}

export interface Model {
  readonly name: string;
  readonly version: string;
  readonly ready: boolean;
  readonly fault: ApiFault | null;
  readonly family: string | null;
  readonly task: string | null;
  readonly licence: string | null;
  readonly digest: string | null;
  readonly engine: string | null;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly state: readonly TensorSpec[];
  readonly state_bytes: number | null;
  readonly batch_max: number | null;
  readonly batch_independence: {
    readonly holds: boolean;
    readonly padding: number;
    readonly rows_tested: number;
  } | null;
  readonly sessions: number | null;
  readonly steps: number | null;
  readonly series: readonly Point[] | null;
}

export interface Models {
  readonly series_interval_s: number;
  readonly models: readonly Model[];
}

export interface Session {
  readonly session_id: string;
  readonly model: string;
  readonly version: string;
  readonly next_step: number;
  readonly durable_step: number;
  readonly oldest_step: number;
  readonly oldest_retained_step: number;
  readonly steps_in_flight: number;
  readonly state_bytes: number;
  readonly open_for_s: number;
  readonly idle_for_s: number;
  readonly durability: string;
  readonly tier: string;
  readonly tenant: string;
}

export interface Sessions {
  readonly sessions: readonly Session[];
  readonly next_page_token: string | null;
  readonly complete: boolean;
}

export interface WirePicture {
  readonly name: string;
  readonly role: string;
  readonly dtype: string;
  readonly full_shape: readonly number[];
  readonly shape: readonly number[];
  readonly blocks: readonly number[];
  readonly data: string;
}

export interface WireFrame {
  readonly next_step: number;
  readonly taken_at_s: number;
  readonly lost: number;
  readonly first_step: number;
  readonly tier: string;
  readonly state: readonly WirePicture[];
  readonly inputs: readonly WirePicture[];
  readonly outputs: readonly WirePicture[];
}

export interface Begun {
  readonly session: Session;
  readonly model: Model;
  readonly frames_per_s: number;
  readonly rows_max: number;
  readonly columns_max: number;
  readonly reduction: string;
}

/** A tensor to be drawn, its values decoded. */
export interface Picture extends Omit<WirePicture, "data"> {
  readonly data: Float32Array;
}

/** The bytes of base64. */
export function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

function floatsOf(bytes: Uint8Array<ArrayBuffer>): Float32Array {
  if (LITTLE_ENDIAN) return new Float32Array(bytes.buffer);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, at) => view.getFloat32(4 * at, true));
}

/** Throws where the data are not as long as the shape says. */
export function pictureOf(wire: WirePicture): Picture {
  const bytes = bytesOf(wire.data);
  const expected = 4 * wire.shape.reduce((product, axis) => product * axis, 1);
  if (bytes.length !== expected)
    throw new RangeError(`${wire.name}: expected ${expected} bytes for [${wire.shape}], got ${bytes.length}`);
  return { ...wire, data: floatsOf(bytes) };
}

/** Whether the server reduced the picture on its way. */
export function isReduced(picture: Pick<WirePicture, "blocks">): boolean {
  return picture.blocks.some((block) => block !== 1);
}
