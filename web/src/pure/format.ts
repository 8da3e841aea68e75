// Numbers as people read them.

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

export function bytes(count: number): string {
  let [value, unit] = [count, 0];
  while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** 0.4 s, 12 s, 5 min, 3 h, 2 d. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

const GROUPED = new Intl.NumberFormat("en-US");

/** 12,345. */
export function count(value: number): string {
  return GROUPED.format(value);
}

/** "1 step", "2 steps". */
export function counted(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A value of a tensor in few characters: 0.98, -3.2e-5, 1,200. */
export function value(number: number): string {
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "NaN" : number > 0 ? "∞" : "-∞";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(1);
  if (Number.isInteger(number)) return count(number);
  return number.toPrecision(3).replace(/\.?0+$/, "");
}

/** 0.82 ms, 12 ms, 1.2 s. */
export function latency(seconds: number): string {
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  const ms = seconds * 1000;
  return `${ms >= 10 ? ms.toFixed(0) : ms.toFixed(2)} ms`;
}

/** float32[128, 20]. */
export function shape(dtype: string, axes: readonly number[]): string {
  return `${dtype}[${axes.join(", ")}]`;
}
