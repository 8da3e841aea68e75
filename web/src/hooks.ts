// What several parts of the page do alike.

import { createContext } from "preact";
import { useContext, useEffect, useReducer, useState } from "preact/hooks";
import { type Api, type Told, told } from "./api";
import { waitAfter } from "./pure/backoff";
import { type Route, routeOf } from "./pure/routing";
import type { Server } from "./pure/wire";

export interface Place {
  readonly api: Api;
  readonly server: Server;
}

export const PlaceContext = createContext<Place | null>(null);

/** The server, and how it is asked. */
export function usePlace(): Place {
  const place = useContext(PlaceContext);
  if (!place) throw new Error("a part of the page was drawn outside of it");
  return place;
}

/** A function that draws this part again. */
export function useRedraw(): () => void {
  const [, redraw] = useReducer((times: number) => times + 1, 0);
  return redraw as () => void;
}

export function useTold<T>(of: Told<T>): T {
  const redraw = useRedraw();
  useEffect(() => of.listen(redraw), [of]);
  return of.value;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => routeOf(location.hash));
  useEffect(() => {
    const changed = () => setRoute(routeOf(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

export interface Polled<T> {
  readonly value: T | null;
  /** Why it could not be had the last time; null where it could. */
  readonly fault: string | null;
}

/** What `ask` gives, asked again every so often while the page is looked at, and later where it fails. */
export function usePolled<T>(
  ask: (signal: AbortSignal) => Promise<T>,
  everyS: number,
  on: readonly unknown[],
): Polled<T> {
  const [polled, setPolled] = useState<Polled<T>>({ value: null, fault: null });
  useEffect(() => {
    const ended = new AbortController();
    let failures = 0;
    let timer = 0;
    const turn = async () => {
      try {
        if (!document.hidden) setPolled({ value: await ask(ended.signal), fault: null });
        failures = 0;
      } catch (fault) {
        failures++;
        if (!ended.signal.aborted) setPolled(({ value }) => ({ value, fault: told(fault) }));
      }
      if (!ended.signal.aborted)
        timer = window.setTimeout(turn, 1000 * (failures ? waitAfter(failures, Math.random()) : everyS));
    };
    void turn();
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, on);
  return polled;
}

/** Whether the page is dark, as the system says. */
export function useDark(): boolean {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const changed = () => setDark(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  return dark;
}
