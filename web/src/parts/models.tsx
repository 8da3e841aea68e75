// Every model that the server has, and how it has been doing.

import { usePlace, usePolled } from "../hooks";
import { bytes, count, latency, shape } from "../pure/format";
import { hrefs } from "../pure/routing";
import { inShort } from "../pure/views";
import type { Model, Point, TensorSpec } from "../pure/wire";
import { Lines } from "./lines";

const EVERY_S = 5;

/** There is room for so many points in a sparkline at least, so that one of a young server is short. */
const POINTS_MIN = 12;

function specs(tensors: readonly TensorSpec[]): string {
  return tensors.map((one) => `${one.name} ${shape(one.dtype, one.shape)}`).join(", ");
}

function Latency({ model, series, intervalS }: { model: Model; series: readonly Point[]; intervalS: number }) {
  const latest = series.findLast((point) => point.latency_mean_s !== null);
  if (!latest?.latency_mean_s) return <span class="soft">nobody stepped</span>;
  const mean = latency(latest.latency_mean_s);
  const p99 = latest.latency_p99_s === null ? "" : `, 99 of 100 within ${latency(latest.latency_p99_s)}`;
  const spanS = Math.round(series.length * intervalS);
  return (
    <div>
      <Lines
        small
        label={`Latency of ${model.name} over the last ${spanS} s: mean ${mean}${p99}`}
        xs={series.map((point) => point.at_s)}
        xRange={(least, greatest) => [Math.min(least, greatest - POINTS_MIN * intervalS), greatest]}
        yRange={(_, greatest) => [0, greatest || 1]}
        lines={[
          { label: "p99", colour: "--soft", values: series.map((point) => point.latency_p99_s) },
          { label: "mean", colour: "--accent", values: series.map((point) => point.latency_mean_s) },
        ]}
      />
      <span class="small soft number" title={`mean${p99}, of the last ${intervalS} s in which somebody stepped`}>
        {mean} · p99 {latest.latency_p99_s === null ? "–" : latency(latest.latency_p99_s)}
      </span>
    </div>
  );
}

function Independence({ of }: { of: Model["batch_independence"] }) {
  if (!of) return <span class="soft">–</span>;
  const tested = `tested with up to ${of.rows_tested} rows, padded to a multiple of ${of.padding}`;
  return of.holds ? (
    <span class="badge good" title={tested}>
      same bits in any company
    </span>
  ) : (
    <span class="badge warn" title={tested}>
      bits depend on the batch
    </span>
  );
}

function Row({ model, intervalS }: { model: Model; intervalS: number }) {
  const rate = model.series?.at(-1)?.steps_per_s;
  return (
    <tr>
      <th scope="row">
        <div>
          <span class="name">{model.name}</span> <span class="soft">{model.version}</span>
        </div>
        <div>
          {model.ready ? <span class="badge good dot">serving</span> : <span class="badge bad dot">not serving</span>}
        </div>
      </th>
      {model.fault && !model.state.length ? (
        <td colSpan={6} data-label="fault">
          <span class="fault">{model.fault.message}</span>
        </td>
      ) : (
        <>
          <td data-label="family">
            <span>
              {model.family || "–"}
              {model.task ? <span class="soft"> · {model.task}</span> : null}
            </span>
          </td>
          <td data-label="state of a session" title={specs(model.state)}>
            <span>
              {model.state_bytes === null ? "–" : bytes(model.state_bytes)}
              <span class="soft"> · {inShort(model.state)}</span>
            </span>
          </td>
          <td data-label="batches">
            <Independence of={model.batch_independence} />
          </td>
          <td data-label="sessions" class="number">
            <a href={hrefs.sessions(model.name)}>{count(model.sessions ?? 0)}</a>
          </td>
          <td data-label="steps/s" class="number">
            {rate === undefined ? "–" : count(Math.round(rate))}
          </td>
          <td data-label="latency">
            {model.series ? (
              <Latency model={model} series={model.series} intervalS={intervalS} />
            ) : (
              <span class="soft">–</span>
            )}
          </td>
        </>
      )}
    </tr>
  );
}

export function Models() {
  const { api } = usePlace();
  const { value, fault } = usePolled((signal) => api.models(signal), EVERY_S, [api]);
  return (
    <>
      <div class="head">
        <h1>Models</h1>
        {value ? (
          <span class="soft small">{value.models.length ? `${value.models.length} in the repository` : ""}</span>
        ) : null}
      </div>
      {fault && !value ? <p class="notice bad">{fault}</p> : null}
      {value?.models.length === 0 ? (
        <div class="empty">
          <h2>No model is here yet</h2>
          <p>A model that is put into the repository appears within seconds:</p>
          <code>ntm-export my_cell.py:build --weights w.pt --name mine --out models/zoo</code>
        </div>
      ) : null}
      {value?.models.length ? (
        <table class="lists">
          <thead>
            <tr>
              <th scope="col">model</th>
              <th scope="col">family · task</th>
              <th scope="col">state of a session</th>
              <th scope="col">batches</th>
              <th scope="col" class="number">
                sessions
              </th>
              <th scope="col" class="number">
                steps/s
              </th>
              <th scope="col">latency</th>
            </tr>
          </thead>
          <tbody>
            {value.models.map((model) => (
              <Row key={`${model.name}/${model.version}`} model={model} intervalS={value.series_interval_s} />
            ))}
          </tbody>
        </table>
      ) : null}
    </>
  );
}
