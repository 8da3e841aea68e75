"""The step model: what the service needs of whatever runs a step, and nothing about how it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, runtime_checkable

from ntm_serve.sizes import Sizes
from ntm_serve.spec import Array, StepSpec

# One session's state: one read-only array per state spec, in the order of the specs, no batch axis.
# A step makes a new one; it is never written to.
State = tuple[Array, ...]


class ModelKey(NamedTuple):
    """A model's name and version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class BatchIndependence:
    """Whether a row's bits depend on its company, as far as the self-test at load saw.

    padding: batches are padded to a multiple of this many rows. rows_tested: the largest batch of the
    test, which had every padded size up to 64, and from there on some of each doubling. holds: no bit
    differed. Nothing is promised beyond rows_tested, so no batch is larger.
    """

    holds: bool
    padding: int
    rows_tested: int


@dataclass(frozen=True)
class ModelCard:
    """What a client may know of a served model beside its spec."""

    name: str
    version: str
    family: str = ""
    task: str = ""
    licence: str = ""
    digest: str = ""
    engine: str = ""

    @property
    def key(self) -> ModelKey:
        return ModelKey(self.name, self.version)


class StepModel(Protocol):
    """A pure step, batched: rows in, rows out."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def spec(self) -> StepSpec: ...

    @property
    def initial_state(self) -> State:
        """The state of a session that made no step."""
        ...

    @property
    def batch_max(self) -> int:
        """The most rows that one run takes."""
        ...

    @property
    def batch_independence(self) -> BatchIndependence: ...

    @property
    def runs_inline(self) -> bool:
        """Whether a short run may be made on the event loop: it computes, and never waits."""
        ...

    def run(self, inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """One step of B sessions, 1 <= B <= batch_max: inputs `[B, ...]` and state `[B, ...]`, each in
        the order of its specs; returns outputs `[B, ...]` and next state `[B, ...]`.

        May be called from any thread. Raises EngineFault.
        """
        ...


@runtime_checkable
class ResizableModel(StepModel, Protocol):
    """A step model whose spec names axes of its state: the same step runs at other sizes of them."""

    def resized(self, sizes: Sizes) -> Self:
        """The same step with a state of these sizes, tested anew. It may take seconds, and be called from any thread.
        Raises ModelRejected, EngineFault.
        """
        ...
