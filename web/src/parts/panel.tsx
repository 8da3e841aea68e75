// A picture with its title, axes and colour scale.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { Look } from "../look";
import { SHADES, shades } from "../pure/colour";
import { value } from "../pure/format";
import { inWords, pinned, type Scale } from "../pure/scale";
import type { Tick } from "../pure/ticks";
import type { Line } from "./lines";

function ColourBar({ look }: { look: Look }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const picture = context.createImageData(SHADES, 1);
    new Uint32Array(picture.data.buffer).set(shades(look.map));
    context.putImageData(picture, 0, 0);
  }, [look.map]);
  return (
    <span aria-hidden="true">
      <canvas ref={canvas} width={SHADES} height={1} />
    </span>
  );
}

interface ScaleProps {
  readonly look: Look;
  readonly of: string;
  readonly title: string;
  readonly scale: Scale;
}

/** The colour bar with its ends, which can be pinned and then typed. */
export function ScaleControl({ look, of, title, scale }: ScaleProps) {
  const pin = look.pins.get(of);
  const [fault, setFault] = useState("");
  const id = useId();
  const ends = useRef<{ least: HTMLInputElement | null; greatest: HTMLInputElement | null }>({
    least: null,
    greatest: null,
  });
  const typed = () => {
    const said = pinned(ends.current.least?.value ?? "", ends.current.greatest?.value ?? "");
    setFault(typeof said === "string" ? said : "");
    if (typeof said !== "string") look.onPin(of, said);
  };
  const field = (end: "least" | "greatest") => (
    <input
      type="text"
      inputmode="decimal"
      class="narrow"
      aria-label={`${title}: ${end} value of the colour scale`}
      aria-describedby={id}
      ref={(element) => {
        ends.current[end] = element;
      }}
      defaultValue={String(Number(scale[end].toPrecision(4)))}
      onChange={typed}
    />
  );
  return (
    <span class="bar-of-colour">
      {pin ? (
        <>
          {field("least")}
          <ColourBar look={look} />
          {field("greatest")}
        </>
      ) : scale.only === undefined ? (
        <>
          <span>{value(scale.least)}</span>
          <ColourBar look={look} />
          <span>{value(scale.greatest)}</span>
        </>
      ) : (
        <span>{inWords(scale)}</span>
      )}
      <button
        type="button"
        class="tiny"
        aria-pressed={pin !== undefined}
        aria-label={`Pin the colour scale of ${title}`}
        onClick={() => {
          setFault("");
          look.onPin(of, pin ? null : { least: scale.least, greatest: scale.greatest });
        }}
      >
        Pin
      </button>
      <span id={id} class="fault small" role="alert">
        {fault}
      </span>
    </span>
  );
}

interface PanelProps {
  readonly look: Look;
  /** Of the colour scale that it shares with pictures of the same tensor. */
  readonly of?: string;
  readonly title: string;
  readonly note?: string;
  /** None where nothing is coloured by its value, or the scale is shown elsewhere. */
  readonly scale?: Scale;
  /** What each line is. */
  readonly legend?: readonly Pick<Line, "label" | "colour" | "dashed">[];
  readonly readout: string;
  readonly children: ComponentChildren;
}

export function Panel({ look, of, title, note, scale, legend = [], readout, children }: PanelProps) {
  return (
    <figure class="plot">
      <figcaption>
        <h3>{title}</h3>
        {note ? <span class="small soft">{note}</span> : null}
        {legend.map(({ label, colour, dashed }) => (
          <span key={label} class="legend small soft">
            <span class="swatch" style={{ borderTop: `2px ${dashed ? "dashed" : "solid"} var(${colour})` }} />
            {label}
          </span>
        ))}
        {scale && of ? <ScaleControl look={look} of={of} title={title} scale={scale} /> : null}
        <span class="readout" aria-hidden="true">
          {readout}
        </span>
      </figcaption>
      {children}
    </figure>
  );
}

/** A style of positions, set by script, as the page's policy takes no style from markup. */
const across = (at: number) => ({ left: `${100 * at}%` });
const down = (at: number) => ({ top: `${100 * at}%` });

interface FieldProps {
  readonly y: readonly Tick[];
  readonly x: readonly Tick[];
  /** Where the step that is shown is, of [0, 1]. */
  readonly cursor?: number | null;
  readonly size: { readonly height: number; readonly width?: number };
  readonly children: ComponentChildren;
}

/** A canvas between its axes. */
export function Field({ y, x, cursor = null, size, children }: FieldProps) {
  const width = size.width ? { width: `calc(${size.width}px + 2.5rem)`, maxWidth: "100%" } : {};
  return (
    <div class="field" style={width}>
      <div class="ticks y" aria-hidden="true">
        {y.map((tick) => (
          <span key={tick.label} style={down(tick.at)}>
            {tick.label}
          </span>
        ))}
      </div>
      <div class="canvas" style={{ height: `${size.height}px` }}>
        {children}
        {cursor === null ? null : <div class="cursor" style={across(cursor)} />}
      </div>
      <div class="ticks x" aria-hidden="true">
        {x.map((tick) => (
          <span key={tick.label} style={across(tick.at)}>
            {tick.label}
          </span>
        ))}
      </div>
    </div>
  );
}
