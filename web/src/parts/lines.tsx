// Lines, by uPlot, without axes: a sparkline, or what stands between the axes of a field.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { useDark } from "../hooks";

export interface Line {
  readonly label: string;
  /** A variable of the style sheet. */
  readonly colour: string;
  readonly dashed?: boolean;
  /** Null breaks the line, undefined does not. */
  readonly values: readonly (number | null | undefined)[];
}

type Range = (least: number, greatest: number) => [number, number];

interface LinesProps {
  readonly label: string;
  readonly xs: readonly number[];
  readonly lines: readonly Line[];
  /** A sparkline: its points are seen, and its size is that of the class. */
  readonly small?: boolean;
  /** What is shown of x and y, given the least and greatest there is. */
  readonly xRange: Range;
  readonly yRange: Range;
  readonly events?: {
    readonly onPointerMove: (event: PointerEvent) => void;
    readonly onPointerLeave: () => void;
    readonly onClick: (event: MouseEvent) => void;
  };
}

function colourOf(variable: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

/** Where few values are known a line does not show them all. */
function wantsPoints(values: readonly (number | null | undefined)[]): boolean {
  return values.includes(undefined) || values.filter((one) => one !== null).length < 3;
}

function optionsOf(latest: () => LinesProps, element: HTMLElement): uPlot.Options {
  const { small, lines } = latest();
  return {
    ...sizeOf(element),
    padding: small ? [3, 1, 3, 1] : [0, 0, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: (_, least, greatest) => latest().xRange(least, greatest) },
      y: { range: (_, least, greatest) => latest().yRange(least, greatest) },
    },
    axes: [{ show: false }, { show: false }],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: colourOf(line.colour),
        width: small ? 1.25 : 1.5,
        ...(line.dashed && { dash: [5, 3] }),
        points: small
          ? { show: true, size: 2.5 }
          : { show: (_: uPlot, series: number) => wantsPoints(latest().lines[series - 1]?.values ?? []), size: 4 },
      })),
    ],
  };
}

function sizeOf(element: HTMLElement): { width: number; height: number } {
  return { width: element.clientWidth || 1, height: element.clientHeight || 1 };
}

export function Lines(props: LinesProps) {
  const dark = useDark();
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const names = props.lines.map((line) => line.label).join("\n");

  useLayoutEffect(() => {
    const element = holder.current;
    if (!element) return;
    const options = optionsOf(() => latest.current, element);
    const made = new uPlot(options, [[], ...latest.current.lines.map(() => [])], element);
    const watched = new ResizeObserver(() => made.setSize(sizeOf(element)));
    watched.observe(element);
    plot.current = made;
    return () => {
      watched.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [dark, names, props.small]);

  useEffect(() => {
    plot.current?.setData([props.xs as number[], ...props.lines.map((line) => line.values as (number | null)[])]);
  }, [props.xs, props.lines, dark, names]);

  return (
    <div
      ref={holder}
      role="img"
      aria-label={props.label}
      class={props.small ? "spark" : "lines"}
      {...(props.events ?? {})}
    />
  );
}
