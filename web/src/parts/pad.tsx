// Steps by hand: inputs that are typed or drawn, sent one after another so that each is seen.

import { useEffect, useRef, useState } from "preact/hooks";
import { told } from "../api";
import { usePlace } from "../hooks";
import { shades } from "../pure/colour";
import { counted } from "../pure/format";
import { pixelOf } from "../pure/paint";
import { nested, rangeInWords, rowsOf, sizeOf, textOf, within } from "../pure/typed";
import type { TensorSpec } from "../pure/wire";

/** Inputs of more values are typed and not drawn. */
const DRAWN_MAX = 64;

/** Steps that are sent by one press. */
const STEPS_MAX = 256;

/** Pixels of the screen for each value that is drawn. */
const CELL = 16;

function Drawing({ spec, text, onText }: { spec: TensorSpec; text: string; onText: (text: string) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawn = useRef<number | null>(null);
  const size = sizeOf(spec.shape);
  const typed = rowsOf(text, spec, STEPS_MAX);
  const rows = typeof typed === "string" ? null : typed;
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || !rows) return;
    const picture = context.createImageData(rows.length, size);
    const pixels = new Uint32Array(picture.data.buffer);
    for (const [step, row] of rows.entries())
      for (const [at, one] of row.entries())
        pixels[at * rows.length + step] = pixelOf(one, { least: 0, greatest: 1 }, shades("even"));
    context.putImageData(picture, 0, 0);
  });
  if (!rows) return null;

  const draw = (event: PointerEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const step = Math.floor(((event.clientX - box.left) / box.width) * rows.length);
    const at = Math.floor(((event.clientY - box.top) / box.height) * size);
    const before = rows[step]?.[at];
    if (before === undefined) return;
    // The first value that is touched says what is drawn: the other of 0 and 1.
    drawn.current ??= before > 0.5 ? 0 : 1;
    if (before === drawn.current) return;
    const value = drawn.current;
    onText(
      textOf(rows.map((row, index) => (index === step ? row.map((one, place) => (place === at ? value : one)) : row))),
    );
  };
  return (
    <canvas
      ref={canvas}
      class="pad"
      width={rows.length}
      height={size}
      style={{ width: `${rows.length * CELL}px`, height: `${size * CELL}px` }}
      role="img"
      aria-label={`${spec.name}, ${counted(rows.length, "step")} of ${size} values; the same can be typed in the field below`}
      data-pad={spec.name}
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        drawn.current = null;
        draw(event);
      }}
      onPointerMove={(event) => event.buttons === 1 && draw(event)}
    />
  );
}

function blank(spec: TensorSpec, steps: number, one: () => number): string {
  const number = () => within(spec, one());
  return textOf(Array.from({ length: steps }, () => Array.from({ length: sizeOf(spec.shape) }, number)));
}

interface PadProps {
  readonly id: string;
  readonly inputs: readonly TensorSpec[];
  readonly nextStep: number;
}

export function Pad({ id, inputs, nextStep }: PadProps) {
  const { api } = usePlace();
  const [texts, setTexts] = useState<readonly string[]>(() => inputs.map((spec) => blank(spec, 1, () => 0)));
  const [steps, setSteps] = useState("8");
  const [said, setSaid] = useState("");
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  useEffect(() => {
    alive.current = true;
    return () => {
      alive.current = false;
    };
  }, []);

  const fill = (one: () => number) => {
    const wanted = Math.min(STEPS_MAX, Math.max(1, Math.floor(Number(steps)) || 1));
    setSteps(String(wanted));
    setTexts(inputs.map((spec) => blank(spec, wanted, one)));
  };

  const send = async (event: Event) => {
    event.preventDefault();
    setSaid("");
    const rows = inputs.map((spec, index) => rowsOf(texts[index] ?? "", spec, STEPS_MAX));
    const wrong = rows.find((one) => typeof one === "string");
    const made = rows.filter((one) => typeof one !== "string");
    const [length = 0] = made.map((one) => one.length);
    if (typeof wrong === "string") return setFault(wrong);
    if (made.some((one) => one.length !== length))
      return setFault("Expected as many lines for each input, as each line is a step.");
    setFault("");
    setBusy(true);
    let at = nextStep;
    let sent = 0;
    try {
      for (; sent < length && alive.current; sent++) {
        const values = inputs.map(
          (spec, index) => [spec.name, [nested(made[index]?.[sent] ?? [], spec.shape)]] as const,
        );
        at = (await api.step(id, Object.fromEntries(values), at)).next_step;
      }
      setSaid(`${counted(sent, "step")} made; the session stands at ${at}.`);
    } catch (refusal) {
      setFault(`${sent} of ${length} made: ${told(refusal)}`);
    }
    setBusy(false);
  };

  return (
    <details>
      <summary>Step it by hand</summary>
      <form class="stack" onSubmit={send}>
        <div class="controls">
          <label>
            Steps{" "}
            <input
              type="text"
              inputmode="numeric"
              class="narrow"
              value={steps}
              onInput={(event) => setSteps(event.currentTarget.value)}
            />
          </label>
          <button type="button" onClick={() => fill(() => 0)}>
            Fill with 0
          </button>
          <button type="button" onClick={() => fill(() => Math.round(Math.random()))}>
            Fill with random bits
          </button>
        </div>
        {inputs.map((spec, index) => {
          const text = texts[index] ?? "";
          const onText = (next: string) => setTexts(texts.map((one, place) => (place === index ? next : one)));
          return (
            <div key={spec.name} class="stack">
              {sizeOf(spec.shape) <= DRAWN_MAX ? <Drawing spec={spec} text={text} onText={onText} /> : null}
              <label for={`pad-${spec.name}`} class="small">
                {spec.name}: a line for each step, {counted(sizeOf(spec.shape), "number")} in it
                {spec.range ? `, ${rangeInWords(spec)}` : ""}
              </label>
              <textarea
                id={`pad-${spec.name}`}
                rows={4}
                spellcheck={false}
                value={text}
                onInput={(event) => onText(event.currentTarget.value)}
              />
            </div>
          );
        })}
        <div class="controls">
          <button type="submit" class="main" disabled={busy}>
            {busy ? "Stepping …" : "Step"}
          </button>
          <span role="status">{said}</span>
          <span role="alert" class="fault">
            {fault}
          </span>
        </div>
      </form>
    </details>
  );
}
