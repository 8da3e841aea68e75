// How a tensor is drawn: by what it means where its role says so, and else by its shape.

/** A tensor of a step, without leading axes. */
export interface TensorShape {
  readonly name: string;
  readonly role: string;
  readonly shape: readonly number[];
}

/**
 * matrix: one picture of rows x columns, as it is now; `offset` is where it begins in the tensor.
 * strip: a row of values each step, over time; `offset` as there.
 */
export interface View {
  readonly kind: "matrix" | "strip";
  readonly tensor: string;
  readonly role: string;
  readonly title: string;
  /** Of a matrix its rows; of a strip 1. */
  readonly rows: number;
  readonly columns: number;
  readonly offset: number;
}

const MATRIX_ROLES: ReadonlySet<string> = new Set(["memory", "link"]);
const STRIP_ROLES: ReadonlySet<string> = new Set([
  "read_weighting",
  "write_weighting",
  "usage",
  "precedence",
  "read_vector",
  "controller",
  "input",
  "output",
]);

/** A tensor of two axes and no known role is rows over time where it has at most so many, as heads are few. */
const ROWS_OVER_TIME_MAX = 4;

/** More pictures of one tensor than that are not drawn: nobody looks at them, and drawing takes its time. */
export const PICTURES_MAX = 16;

const AXIS_NAMES: Readonly<Record<string, readonly [string, string]>> = {
  memory: ["slot", "column"],
  link: ["slot", "slot before it"],
  read_weighting: ["step", "slot"],
  write_weighting: ["step", "slot"],
  usage: ["step", "slot"],
  precedence: ["step", "slot"],
  read_vector: ["step", "column"],
  controller: ["step", "unit"],
  input: ["step", "channel"],
  output: ["step", "channel"],
};

function product(axes: readonly number[]): number {
  return axes.reduce((all, axis) => all * axis, 1);
}

/** What rows or steps, and columns or values, of a view are called. */
export function axesOf(view: View): readonly [string, string] {
  return AXIS_NAMES[view.role] ?? (view.kind === "matrix" ? ["row", "column"] : ["step", "place"]);
}

/** Every view of a tensor; several where it has one for each head. */
export function viewsOf({ name, role, shape }: TensorShape): View[] {
  const rank = shape.length;
  const asMatrix =
    rank >= 2 && !STRIP_ROLES.has(role) && (MATRIX_ROLES.has(role) || rank > 2 || (shape[0] ?? 0) > ROWS_OVER_TIME_MAX);
  const kept = asMatrix ? 2 : Math.min(rank, 1);
  const [rows, columns] = asMatrix ? [shape[rank - 2] ?? 1, shape[rank - 1] ?? 1] : [1, shape[rank - 1] ?? 1];
  const leading = shape.slice(0, rank - kept);
  const pictures = Math.min(product(leading), PICTURES_MAX);
  const label = name.replaceAll("_", " ");
  return Array.from({ length: pictures }, (_, index) => ({
    kind: asMatrix ? "matrix" : "strip",
    tensor: name,
    role,
    title: pictures > 1 ? `${label}, ${STRIP_ROLES.has(role) || role === "link" ? "head" : "part"} ${index}` : label,
    rows,
    columns,
    offset: index * rows * columns,
  }));
}

const ORDER = ["memory", "write_weighting", "read_weighting", "usage", "precedence", "link"];

/** Tensors of a state, the telling ones first. */
function byTelling<T extends { readonly role: string }>(tensors: readonly T[]): T[] {
  const rank = (role: string) => (ORDER.indexOf(role) + ORDER.length + 1) % (ORDER.length + 1);
  return [...tensors].sort((one, other) => rank(one.role) - rank(other.role));
}

export function viewsOfState(tensors: readonly TensorShape[]): View[] {
  return byTelling(tensors).flatMap(viewsOf);
}

/** Views of one tensor together, in their order. */
export function byTensor(views: readonly View[]): View[][] {
  const groups = new Map<string, View[]>();
  for (const view of views) groups.set(view.tensor, [...(groups.get(view.tensor) ?? []), view]);
  return [...groups.values()];
}

/** What a state is told by in few words: its memory, where it has one. */
export function inShort(state: readonly TensorShape[]): string {
  const first = byTelling(state)[0];
  return first ? `${first.name.replaceAll("_", " ")} ${first.shape.join(" × ") || "1"}` : "none";
}
