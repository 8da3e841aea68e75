// What is looked at: live or held, which frame, how coloured, and how often.

import { MAP_NAMES, type MapName } from "../pure/colour";
import { count, counted } from "../pure/format";

export const WIDTHS = [60, 120, 240, 480] as const;

const MAP_TITLES: Record<MapName, string> = { even: "violet to yellow", signed: "blue, white, red", grey: "grey" };

export interface Choice {
  readonly map: MapName;
  readonly width: number;
  readonly framesPerS: number;
  readonly rows: number;
}

interface PlayerProps {
  readonly frames: readonly { readonly nextStep: number }[];
  /** Of the frame that is shown. */
  readonly index: number;
  readonly following: boolean;
  /** Frames that had no place while this one was held. */
  readonly leftOut: number;
  readonly onHold: (index: number) => void;
  readonly onFollow: () => void;
  readonly choice: Choice;
  readonly onChoice: (choice: Choice) => void;
  readonly rates: readonly number[];
  readonly sizes: readonly number[];
  readonly onPng: () => void;
  readonly onNpz: () => void;
}

function Select<T extends string | number>(props: {
  readonly name: string;
  readonly value: T;
  readonly of: readonly (readonly [T, string])[];
  readonly onChange: (value: T) => void;
}) {
  return (
    <label class="small">
      {props.name}
      <select
        value={props.value}
        onChange={(event) => {
          const chosen = props.of[event.currentTarget.selectedIndex];
          if (chosen) props.onChange(chosen[0]);
        }}
      >
        {props.of.map(([value, title]) => (
          <option key={value} value={value}>
            {title}
          </option>
        ))}
      </select>
    </label>
  );
}

export function Player(props: PlayerProps) {
  const { frames, index, following, choice, onChoice } = props;
  const last = frames.length - 1;
  const step = frames[index]?.nextStep ?? 0;
  const newer = last - index + props.leftOut;
  return (
    <section class="player" aria-label="What is shown">
      <div class="controls">
        <button
          type="button"
          aria-pressed={!following}
          onClick={() => (following ? props.onHold(index) : props.onFollow())}
        >
          {following ? "Pause" : "Go live"}
        </button>
        <button type="button" aria-label="One frame back" disabled={index <= 0} onClick={() => props.onHold(index - 1)}>
          ‹
        </button>
        <input
          type="range"
          class="spread"
          aria-label="Frame that is shown"
          aria-valuetext={`after ${counted(step, "step")}`}
          min={0}
          max={Math.max(last, 0)}
          value={index}
          onInput={(event) => props.onHold(event.currentTarget.valueAsNumber)}
        />
        <button
          type="button"
          aria-label="One frame on"
          disabled={index >= last}
          onClick={() => props.onHold(index + 1)}
        >
          ›
        </button>
        <output class="small number">
          after {counted(step, "step")} · frame {index + 1} of {frames.length}
          {following || newer === 0 ? "" : ` · ${count(newer)} newer`}
        </output>
      </div>
      <div class="controls">
        <Select
          name="Colours"
          value={choice.map}
          of={MAP_NAMES.map((name) => [name, MAP_TITLES[name]] as const)}
          onChange={(map) => onChoice({ ...choice, map })}
        />
        <Select
          name="Steps across"
          value={choice.width}
          of={WIDTHS.map((width) => [width, String(width)] as const)}
          onChange={(width) => onChoice({ ...choice, width })}
        />
        <Select
          name="Frames a second"
          value={choice.framesPerS}
          of={props.rates.map((rate) => [rate, String(rate)] as const)}
          onChange={(framesPerS) => onChoice({ ...choice, framesPerS })}
        />
        <Select
          name="Rows at most"
          value={choice.rows}
          of={props.sizes.map((rows) => [rows, String(rows)] as const)}
          onChange={(rows) => onChoice({ ...choice, rows })}
        />
        <span class="right controls">
          <button type="button" onClick={props.onPng}>
            Export PNG
          </button>
          <button type="button" onClick={props.onNpz}>
            Export npz
          </button>
        </span>
      </div>
    </section>
  );
}
