// Which cell of a picture is pointed at.

import { useState } from "preact/hooks";

export interface Pointed {
  readonly x: number;
  readonly y: number;
}

/** Of an element that shows width x height cells. */
export function usePointed(width: number, height: number) {
  const [pointed, setPointed] = useState<Pointed | null>(null);
  const at = (event: PointerEvent | MouseEvent): Pointed => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const cell = (share: number, cells: number) => Math.min(cells - 1, Math.max(0, Math.floor(share * cells)));
    return {
      x: cell((event.clientX - box.left) / box.width, width),
      y: cell((event.clientY - box.top) / box.height, height),
    };
  };
  const events = {
    onPointerMove: (event: PointerEvent) => setPointed(at(event)),
    onPointerLeave: () => setPointed(null),
  };
  return { pointed, at, events };
}
