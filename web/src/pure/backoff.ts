// How long to wait before the server is asked again.

export const FIRST_WAIT_S = 0.5;
export const LONGEST_WAIT_S = 8;

/** Seconds after so many failures in a row. chance, of [0, 1), keeps many pages from asking at once. */
export function waitAfter(failures: number, chance: number): number {
  const full = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** Math.max(0, failures - 1));
  return full * (0.5 + chance / 2);
}
