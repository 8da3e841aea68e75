"""Model directories of graphs that a test has written by hand."""

import numpy as np

import ntm_serve
from ntm_serve.bundle import file_entries, npz, write_directory
from ntm_serve.engine import graph_run
from ntm_serve.manifest import (
    GOLDEN_FILE,
    INITIAL_STATE_FILE,
    MODEL_FILE,
    AxisEntry,
    Exporter,
    InputEntry,
    Manifest,
    RangeEntry,
    StateEntry,
    TensorEntry,
    Verification,
)
from ntm_serve.model_directory import Golden, golden_arrays


def write_model(target, onnx, inputs, outputs, state, initial, example, *, axes=None, axes_of=None, ranges=None):
    """inputs, outputs: name to (dtype, shape); state: to (dtype, shape, role), `next_<name>` gives what follows.
    example: the golden run's inputs `[T, ...]`. axes: name to (least, most); axes_of: names of a state tensor's axes.
    ranges: of inputs, name to (least, most).
    """
    ranges = {name: RangeEntry(min=least, max=most) for name, (least, most) in (ranges or {}).items()}
    manifest = Manifest(
        family="by hand",
        opset=17,
        inputs=tuple(
            InputEntry(name=n, dtype=dtype, shape=shape, range=ranges.get(n)) for n, (dtype, shape) in inputs.items()
        ),
        outputs=tuple(TensorEntry(name=n, dtype=dtype, shape=shape) for n, (dtype, shape) in outputs.items()),
        state=tuple(
            StateEntry(
                name=n, dtype=dtype, shape=shape, role=role, graph_input=n, graph_output=f"next_{n}",
                axes=(axes_of or {}).get(n, ()),
            )
            for n, (dtype, shape, role) in state.items()
        ),
        axes={name: AxisEntry(min=least, max=most) for name, (least, most) in (axes or {}).items()},
        files={},
        exporter=Exporter(ntm_serve=ntm_serve.__version__),
        verification=Verification(
            tolerance=1e-5, batch_sizes=(), parity_steps=0, parity_error_max=0, drift_steps=0, drift_error_max=None
        ),
    )  # fmt: skip
    golden = _recorded(graph_run(onnx, target), list(outputs), list(state), initial, example)
    files = {
        MODEL_FILE: onnx,
        INITIAL_STATE_FILE: npz(initial),
        GOLDEN_FILE: npz(golden_arrays(manifest.step_spec(), golden)),
    }
    signed = manifest.model_copy(update={"files": file_entries(files)}).signed()
    write_directory(target, files, signed, force=False, check=lambda _: None)
    return target


def _recorded(run, outputs, state, initial, example):
    states, made = [dict(initial)], []
    for step in range(len(next(iter(example.values())))):
        feeds = {n: array[step : step + 1] for n, array in example.items()}
        feeds |= {n: array[np.newaxis] for n, array in states[-1].items()}
        given = [array[0] for array in run(feeds, [*outputs, *(f"next_{one}" for one in state)])]
        made.append(given[: len(outputs)])
        states.append(dict(zip(state, given[len(outputs) :], strict=True)))
    return Golden(
        tuple(example.values()),
        tuple(np.stack(arrays) for arrays in zip(*made, strict=True)),
        tuple(np.stack([one[n] for one in states]) for n in state),
    )
