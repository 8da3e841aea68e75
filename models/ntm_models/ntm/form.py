"""The form of an NTM step: what publications and programs that follow Graves et al. 2014 do differently.

The paper leaves much open (which functions keep a head's parameters in range, what the output sees, how a session
begins), so there are as many functions as there are programs, and weights of one are worth nothing in another. Each
difference is a choice here, by name; the defaults are what this project trains. A choice that does not exist is
refused by its field.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.nn import functional

from ntm_models.ntm import addressing


def hard_sigmoid(z: Tensor) -> Tensor:
    """The logistic function in three straight pieces, as Theano and Keras have it; torch's own is less steep."""
    return torch.clamp(0.2 * z + 0.5, 0, 1)


# Functions of one number, and two of the last axis as a whole.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "one": torch.ones_like,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard-sigmoid": hard_sigmoid,
    "softplus": functional.softplus,
    "1+softplus": lambda z: 1 + functional.softplus(z),
    "1+relu": lambda z: 1 + torch.relu(z),
    "softmax": lambda z: torch.softmax(z, dim=-1),
    "softmax-relu": lambda z: torch.softmax(torch.relu(z), dim=-1),
}

SIMILARITIES = {"cosine": addressing.cosine_similarity, "cosine-root": addressing.cosine_similarity_root}
SHARPENINGS = {"softmax": addressing.sharpen, "power": addressing.sharpen_power}


def _one_of(*choices: str) -> str:
    """A field that is one of some texts, the first by default."""
    return field(default=choices[0], metadata={"choices": choices})


class _Choices:
    """Holds the fields of a frozen dataclass to their choices."""

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]  # Both subclasses are dataclasses.
            choices = one.metadata.get("choices")
            if choices and getattr(self, one.name) not in choices:
                raise ValueError(f"{one.name}: expected one of {', '.join(choices)}, got {getattr(self, one.name)!r}")


@dataclass(frozen=True)
class Activations(_Choices):
    """What each parameter of a head is sent through: key k, strength beta, gate g, shift weighting s, exponent
    gamma, erase e, add a. erase `one`: a write clears what it attends to, and nothing is learned of it.
    """

    key: str = _one_of("tanh", "identity", "relu")
    strength: str = _one_of("softplus", "relu")
    gate: str = _one_of("sigmoid", "hard-sigmoid")
    shift: str = _one_of("softmax", "softmax-relu")
    exponent: str = _one_of("1+softplus", "1+relu")
    erase: str = _one_of("sigmoid", "hard-sigmoid", "relu", "one")
    add: str = _one_of("tanh", "identity", "relu")


@dataclass(frozen=True)
class Form(_Choices):
    """All choices but the sizes.

    similarity: `cosine` adds its epsilon to the product of the norms, `cosine-root` to their squares' product, under
    the root. shift: what comes from beyond an end of the memory is the other end, or nothing. sharpening: eq. 9 as a
    softmax of logarithms, or as it stands. reads: read vectors are taken from the memory that was addressed, or from
    what was then written. heads_see: what of the controller the heads are projected from; only an LSTM has a cell.
    output_sees: the controller's output with the new read vectors, or alone. start: a session's first state is
    learned in bounds, or is given as it is. memory: the first content of the memory is a small constant, or learned
    with the rest; given, it is what was given.
    """

    activations: Activations = Activations()
    similarity: str = _one_of(*SIMILARITIES)
    similarity_epsilon: float = addressing.COSINE_EPSILON
    shift: str = _one_of("circular", "zero-padded")
    sharpening: str = _one_of(*SHARPENINGS)
    sharpening_epsilon: float = addressing.SHARPEN_EPSILON
    reads: str = _one_of("before-write", "after-write")
    heads_see: str = _one_of("output", "cell")
    output_sees: str = _one_of("controller-and-reads", "controller")
    start: str = _one_of("learned", "given")
    memory: str = _one_of("constant", "learned")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("similarity_epsilon", "sharpening_epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")


# What this project trains.
OURS = Form()
