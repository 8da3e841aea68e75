"""An audit of a store: whether every session in it comes back, and gives what was answered.

Rules of this file: nothing is claimed and nothing is changed; one damaged session takes nothing from the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntm_serve.beginning import recorded_sizes
from ntm_serve.errors import CallerFault, NtmServeError, StoreDamaged
from ntm_serve.record import crc_of, expect_whole, read_record
from ntm_serve.replay import bases_of, saved_at
from ntm_serve.sizes import Sizes
from ntm_serve.snapshot import decoded
from ntm_serve.spec import Array
from ntm_serve.step_model import ModelKey, ResizableModel, StepModel
from ntm_serve.store import Store, StoredSession

PAGE = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a session. steps_run: that were run again. fault: why it would not come back; differs: the
    first step of a record that gives other outputs or another state, which is not asked where bits depend on a
    batch's company.
    """

    session_id: str
    next_step: int
    steps_run: int = 0
    fault: NtmServeError | None = None
    differs: int | None = None

    @property
    def is_well(self) -> bool:
        return self.fault is None and self.differs is None


def audit(store: Store, models: Mapping[ModelKey, StepModel], *, replay: bool) -> Iterator[Finding]:
    """Every session of a store, in the order of their ids: checksums and what leads where; and the model, where
    models are given; and, with replay, every record run again. Raises StoreUnavailable.
    """
    after, resized = "", _Resized()
    while page := store.list(after=after, limit=PAGE):
        for summary in page:
            try:
                yield _of(store.read(summary.session_id), models, resized, replay=replay)
            except StoreDamaged as fault:
                yield Finding(summary.session_id, summary.next_step, fault=fault)
            except CallerFault:  # It ended since the page was made.
                continue
        after = page[-1].session_id


class _Resized:
    """Models at the sizes of their sessions, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[ModelKey, Sizes], StepModel] = {}

    def of(self, model: StepModel, sizes: Sizes) -> StepModel:
        if not sizes:
            return model
        key = model.card.key, sizes
        if key not in self._made:
            assert isinstance(model, ResizableModel), "a session of it chose them"
            self._made[key] = model.resized(sizes)
        return self._made[key]


def _of(stored: StoredSession, models: Mapping[ModelKey, StepModel], resized: _Resized, *, replay: bool) -> Finding:
    head = stored.head
    model = models.get(ModelKey(head.model, head.version))
    if not models:
        for one in stored.records:
            expect_whole(stored.session_id, one)
        for snapshot in stored.snapshots:
            what = f"session {stored.session_id}: snapshot of step {snapshot.step}"
            decoded(snapshot.payload, what=what, fault=StoreDamaged)
        return Finding(stored.session_id, stored.next_step)
    if model is None or model.card.digest != head.digest:
        raise StoreDamaged(
            f"session {stored.session_id}: was opened with model {head.model}/{head.version} of digest {head.digest}, "
            f"expected one of {', '.join(f'{key} of {one.card.digest}' for key, one in models.items())}"
        )
    model = resized.of(model, recorded_sizes(head.options))
    states = {step: saved_at(stored, step, model) for step in bases_of(stored)}
    records = [read_record(stored.session_id, record, model.spec) for record in stored.records]
    if not replay or not model.batch_independence.holds:
        return Finding(stored.session_id, stored.next_step)
    oldest = min(states)
    first = states[oldest]
    state = _rows(model.initial_state if first is None else first.state, model)
    run = 0
    for record in records:
        begin = max(0, oldest - record.first_step)
        outputs, state = _run(model, [array[begin:] for array in record.inputs], state)
        run += len(record.inputs[0]) - begin
        kept = states.get(record.end_step)
        others = kept is not None and [array[0].tobytes() for array in state] != [one.tobytes() for one in kept.state]
        if others or (begin == 0 and crc_of(outputs) != record.outputs_crc):
            return Finding(stored.session_id, stored.next_step, run, differs=record.first_step)
    return Finding(stored.session_id, stored.next_step, run)


def _rows(arrays: Sequence[Array], model: StepModel) -> list[Array]:
    """So many of the same as the smallest run has."""
    return [np.repeat(array[np.newaxis], model.batch_independence.padding, axis=0) for array in arrays]


def _run(model: StepModel, inputs: Sequence[Array], state: list[Array]) -> tuple[list[Array], list[Array]]:
    """Outputs `[T, ...]` of steps run one after another, and the rows of the state after them."""
    made: list[list[Array]] = []
    for step in range(len(inputs[0])):
        outputs, state = model.run(_rows([array[step] for array in inputs], model), state)
        made.append([array[0] for array in outputs])
    return [np.stack(arrays) for arrays in zip(*made, strict=True)], state
