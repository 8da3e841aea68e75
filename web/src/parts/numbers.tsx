// The frame that is shown, in numbers: for who does not see pictures, and who wants to quote them.

import { type Look, pictureIn } from "../look";
import { counted, value } from "../pure/format";
import { axesOf, type View } from "../pure/views";

/** Of a strip the places that hold the most. */
const PLACES = 3;

interface Summary {
  readonly least: number;
  readonly greatest: number;
  readonly mean: number;
  readonly peaks: readonly number[];
}

function summaryOf(values: Float32Array): Summary {
  let [least, greatest, sum] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0];
  for (const one of values) {
    least = Math.min(least, one);
    greatest = Math.max(greatest, one);
    sum += one;
  }
  const order = Array.from(values.keys()).sort((one, other) => (values[other] ?? 0) - (values[one] ?? 0));
  return { least, greatest, mean: sum / values.length, peaks: order.slice(0, PLACES) };
}

/** Of a picture that was reduced: the first of the elements that the value stands for. */
function placeOf(view: View, blocks: readonly number[], at: number): string {
  const [rowName, columnName] = axesOf(view);
  const [rowBlock, columnBlock] = [blocks.at(-2) ?? 1, blocks.at(-1) ?? 1];
  if (view.kind === "strip") return `${columnName} ${at * columnBlock}`;
  const [row, column] = [Math.floor(at / view.columns), at % view.columns];
  return `${rowName} ${row * rowBlock}, ${columnName} ${column * columnBlock}`;
}

export function Numbers({ look, views }: { look: Look; views: readonly View[] }) {
  return (
    <table class="lists">
      <caption class="small soft">The state after {counted(look.frame.nextStep, "step")}</caption>
      <thead>
        <tr>
          <th scope="col">tensor</th>
          <th scope="col" class="number">
            least
          </th>
          <th scope="col" class="number">
            mean
          </th>
          <th scope="col" class="number">
            greatest
          </th>
          <th scope="col">where the greatest are</th>
        </tr>
      </thead>
      <tbody>
        {views.map((view) => {
          const picture = pictureIn(look.frame, view.tensor);
          if (!picture) return null;
          const values = picture.data.subarray(view.offset, view.offset + view.rows * view.columns);
          const { least, greatest, mean, peaks } = summaryOf(values);
          return (
            <tr key={`${view.tensor} ${view.offset}`}>
              <th scope="row">{view.title}</th>
              <td data-label="least" class="number">
                {value(least)}
              </td>
              <td data-label="mean" class="number">
                {value(mean)}
              </td>
              <td data-label="greatest" class="number">
                {value(greatest)}
              </td>
              <td data-label="where the greatest are">
                {peaks.map((at) => `${placeOf(view, picture.blocks, at)} (${value(values[at] ?? 0)})`).join(" · ")}
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}
