// Lines over time, by uPlot: large with axes, or small without.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { useDark } from "../hooks";

export interface Line {
  readonly label: string;
  /** A variable of the style sheet. */
  readonly colour: string;
  readonly values: readonly (number | null)[];
}

interface LinesProps {
  readonly label: string;
  readonly xs: readonly number[];
  readonly lines: readonly Line[];
  readonly height: number;
  /** Without axes: a sparkline. */
  readonly small?: boolean;
  /** How much of x is shown at least; as much as there is where it is not said. */
  readonly spanMin?: number;
  /** Where a mark is drawn, in x. */
  readonly mark?: number | null;
  readonly onPick?: (index: number) => void;
}

function colourOf(variable: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

function optionsOf(props: LinesProps, width: number, mark: () => number | null): uPlot.Options {
  const { small, lines, height, spanMin } = props;
  const soft = colourOf("--soft");
  const grid = { stroke: colourOf("--line"), width: 1 };
  const axis = { stroke: soft, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width,
    height,
    padding: small ? [3, 1, 3, 1] : [6, 0, 0, 0],
    legend: { show: false },
    cursor: small ? { show: false } : { drag: { x: false, y: false }, points: { size: 5 } },
    scales: {
      x: {
        time: false,
        ...(spanMin && { range: (_, least, greatest) => [Math.min(least, greatest - spanMin), greatest] }),
      },
      ...(small && { y: { range: (_, _least, greatest) => [0, greatest || 1] } }),
    },
    axes: small
      ? [{ show: false }, { show: false }]
      : [
          { ...axis, size: 22 },
          { ...axis, size: 40 },
        ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: colourOf(line.colour),
        width: 1.25,
        points: small ? { show: true, size: 2.5 } : { show: props.xs.length < 3 },
      })),
    ],
    hooks: {
      draw: [
        (plot) => {
          const at = mark();
          if (at === null) return;
          const x = Math.round(plot.valToPos(at, "x", true));
          plot.ctx.fillStyle = colourOf("--mark");
          plot.ctx.fillRect(x, plot.bbox.top, Math.ceil(devicePixelRatio * 1.5), plot.bbox.height);
        },
      ],
    },
  };
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
    const options = optionsOf(latest.current, element.clientWidth || 1, () => latest.current.mark ?? null);
    const made = new uPlot(options, [[], ...latest.current.lines.map(() => [])], element);
    const pick = () => {
      if (made.cursor.idx !== null && made.cursor.idx !== undefined) latest.current.onPick?.(made.cursor.idx);
    };
    made.over.addEventListener("click", pick);
    const watched = new ResizeObserver(() =>
      made.setSize({ width: element.clientWidth || 1, height: latest.current.height }),
    );
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
  }, [props.xs, props.lines, props.mark, dark, names]);

  return <div ref={holder} role="img" aria-label={props.label} class={props.small ? "spark" : "lines"} />;
}
