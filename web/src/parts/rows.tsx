// An input or output over time: lines where it has few values, and else a picture.

import { useMemo } from "preact/hooks";
import { type Kind, keyOf, type Look, rowIn, scaleOfRows } from "../look";
import { value } from "../pure/format";
import type { View } from "../pure/views";
import { Lines } from "./lines";
import { Panel } from "./panel";
import { LINES_MAX, RowStrip } from "./pictures";

const COLOURS = ["--accent", "--mark"] as const;

function RowLines({ look, view, kind }: { look: Look; view: View; kind: Kind }) {
  const { xs, lines } = useMemo(() => {
    const columns = look.columns.filter((column) => column.step !== null);
    return {
      xs: columns.map((column) => column.step ?? 0),
      lines: Array.from({ length: view.columns }, (_, at) => ({
        label: `${view.tensor} ${at}`,
        colour: COLOURS[at % COLOURS.length] ?? "--accent",
        values: columns.map((column) => rowIn(look, column, kind, view.tensor)?.[view.offset + at] ?? null),
      })),
    };
  }, [look, view, kind]);
  const latest = lines[0]?.values.findLast((one) => one !== null);
  const label = `${view.title} over time${latest === undefined || latest === null ? "" : `, ${value(latest)} at last`}`;
  return (
    <Panel look={look} of={keyOf(view)} title={view.title} scale={scaleOfRows(look, view, kind)} readout="">
      <Lines
        label={label}
        height={110}
        xs={xs}
        lines={lines}
        mark={look.frame.nextStep - 1}
        onPick={(index) => {
          const column = look.columns.find((one) => one.step === xs[index]);
          if (column) look.onPick(column);
        }}
      />
    </Panel>
  );
}

export function Rows(props: { look: Look; view: View; kind: Kind }) {
  return props.view.columns <= LINES_MAX ? <RowLines {...props} /> : <RowStrip {...props} />;
}
