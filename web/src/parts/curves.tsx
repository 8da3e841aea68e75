// One or two values over time: a line each, over the same steps as the pictures beside them.

import { useMemo } from "preact/hooks";
import { value } from "../pure/format";
import type { Column } from "../pure/history";
import { padded } from "../pure/scale";
import { stepTicks, valueTicks } from "../pure/ticks";
import { axesOf } from "../pure/views";
import { Lines } from "./lines";
import { Field, Panel } from "./panel";
import type { OverTimeProps, Values } from "./pictures";
import { usePointed } from "./pointing";

const COLOURS = ["--accent", "--good"] as const;
const HEIGHT = 110;

/** Null breaks a line, undefined is passed over: the state between two that were seen. */
function pointOf(column: Column, values: Values | null, at: number): number | null | undefined {
  if (column.step === null || !values) return null;
  if (!values.exact) return undefined;
  const one = values.data[values.offset + at];
  return one !== undefined && Number.isFinite(one) ? one : null;
}

export function Curves({ look, view, scale, note, valuesAt }: OverTimeProps) {
  const { columns, width, frame } = look;
  const { pointed, at, events } = usePointed(width, 1);
  const [, placeName] = axesOf(view);
  const { xs, lines } = useMemo(
    () => ({
      xs: columns.map((_, index) => index + 0.5),
      lines: Array.from({ length: view.columns }, (_, place) => ({
        label: `${placeName} ${place}`,
        colour: COLOURS[place] ?? "--accent",
        dashed: place > 0,
        values: columns.map((column) => pointOf(column, valuesAt(column), place)),
      })),
    }),
    [look, view],
  );
  const cursor = columns.findIndex((column) => column.step === frame.nextStep - 1);
  const under = pointed ? columns[pointed.x] : undefined;
  const values = under ? valuesAt(under) : null;
  const told = (of: Values) => lines.map((_, place) => value(of.data[of.offset + place] ?? Number.NaN)).join(" · ");
  const readout = under && values ? `step ${under.step} · ${values.exact ? "" : "later "}${told(values)}` : "";
  const last = lines.map(({ values }) => values.findLast((one) => typeof one === "number")) as (number | undefined)[];
  const known = last.every((one) => one !== undefined);
  const label = `${view.title} over time${known ? `, ${last.map((one) => value(one ?? 0)).join(" and ")} at last` : ""}`;
  const { least, greatest } = padded(scale);
  return (
    <Panel look={look} title={view.title} note={note} readout={readout} legend={lines.length > 1 ? lines : []}>
      <Field
        y={valueTicks(scale, HEIGHT / 40)}
        x={stepTicks(columns, width, 6)}
        cursor={cursor < 0 ? null : (cursor + 0.5) / width}
        size={{ height: HEIGHT }}
      >
        <Lines
          label={label}
          xs={xs}
          lines={lines}
          xRange={() => [0, width]}
          yRange={() => [least, greatest]}
          events={{
            ...events,
            onClick: (event: MouseEvent) => {
              const column = columns[at(event).x];
              if (column) look.onPick(column);
            },
          }}
        />
      </Field>
    </Panel>
  );
}
