"""Whether a session's client saw what it must see: each step once, in order, with the bits of an undisturbed run. Pure.

Rules of this file: what is checked is what came, against a reference that knows nothing of servers; a step that came
with the bits of another is told apart from one whose bits are nobody's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np

from ntm_serve.spec import Array


class Answer(NamedTuple):
    """The reply to one message: outputs `[T, ...]` of the steps from first_step on, as the server numbered them."""

    first_step: int
    outputs: Array


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of how many answered steps which were at fault.

    lost: not answered although a later one was, or although the session stands after them; or answered, and the
    session stands before them. doubled: answered more than once. swapped: answered after a later one, or with the bits
    of another. wrong: answered with bits that no step has.
    """

    steps: int = 0
    lost: int = 0
    doubled: int = 0
    swapped: int = 0
    wrong: int = 0

    def __add__(self, other: Self) -> "Verdict":
        return Verdict(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def holds(self) -> bool:
        """Whether nothing was at fault."""
        return self.lost == self.doubled == self.swapped == self.wrong == 0


def check(answers: Sequence[Answer], reference: Array, *, start: int = 0, stands_at: int | None = None) -> Verdict:
    """What became of the steps from `start` on. answers: in the order in which they came. reference: the outputs
    `[N, ...]` of the steps from 0 on, at least as many as were answered. stands_at: the session's next step as its
    server tells it in the end; None where it is not known.
    """
    nothing = np.empty(0, np.int64)
    numbers = np.concatenate(
        [nothing, *(np.arange(one.first_step, one.first_step + len(one.outputs)) for one in answers)]
    )
    known = numbers < len(reference)
    end = max([start, *(numbers + 1).tolist()]) if stands_at is None else stands_at
    counts = np.bincount(numbers[numbers >= start] - start, minlength=max(0, end - start))
    highest_before = np.concatenate([[-1], np.maximum.accumulate(numbers)[:-1]]) if len(numbers) else numbers
    is_first = np.zeros(len(numbers), bool)
    is_first[np.unique(numbers, return_index=True)[1]] = True
    late = int((is_first & (numbers < highest_before)).sum())
    swapped, wrong = _of_other_bits(answers, numbers, known, reference)
    return Verdict(
        steps=len(numbers),
        lost=int((counts[: end - start] == 0).sum() + (counts[end - start :] > 0).sum()),
        doubled=int(np.maximum(counts - 1, 0).sum() + (numbers < start).sum()),
        swapped=late + swapped,
        wrong=wrong,
    )


def _of_other_bits(answers: Sequence[Answer], numbers: Array, known: Array, reference: Array) -> tuple[int, int]:
    """How many steps came with the bits of another, and with nobody's."""
    if not len(numbers):
        return 0, 0
    wanted = _bits(reference)
    came = np.concatenate([_bits(one.outputs) for one in answers])
    differs = ~known
    if came.shape[1:] == wanted.shape[1:]:
        differs[known] = (came[known] != wanted[numbers[known]]).any(axis=1)
    else:
        differs[:] = True
    if not differs.any():
        return 0, 0
    others = {row.tobytes() for row in wanted}
    swapped = sum(row.tobytes() in others for row in came[differs])
    return swapped, int(differs.sum()) - swapped


def _bits(rows: Array) -> Array:
    """The rows as bytes `[T, B]`: also two zeros of different signs differ, and no number is unlike itself."""
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
