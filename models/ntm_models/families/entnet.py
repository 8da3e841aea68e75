"""The recurrent entity network (Henaff et al. 2017, arXiv:1612.03969).

One step, in this order, with the equations there:
1. the statement becomes a vector: its words' embeddings, each weighted by its place, added up;
2. each of K cells decides by its content and its key how much the statement concerns it, makes a candidate,
   takes in its share, and is brought back to length one, which forgets;
3. the question, encoded in the same way, attends to the cells; the output is the probability of each answer.

Ours: a step may have a statement, a question, or both. One without a statement changes no cell: a sum of no
words would still open half of every gate. The paper asks after the last statement alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ntm_models.trainable import ClassifyingStep, Tensors, expect_at_least_one

# The shortest length that a cell is divided by. A clamp, because an exporter may take a small summand for zero.
LENGTH_MIN = 1e-6

# The word that stands where there is none.
NO_WORD = 0


@dataclass(frozen=True)
class EntNetOptions:
    """Sizes: inputs, words of a statement; asked, words of a question; vocabulary, words that there are, the number 0
    for none; outputs O, answers; cells K, of which each has a width D.
    """

    inputs: int
    outputs: int
    asked: int
    vocabulary: int
    cells: int = 8
    width: int = 32

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "asked", "vocabulary", "cells", "width")


class EntNet(ClassifyingStep):
    """A step of a recurrent entity network. Inputs: x, the statement, and question, both numbers of words, 0 where
    there is none. State of one session: entities `[K, D]`.
    """

    family = "entnet"
    options_kind = EntNetOptions
    roles = {"entities": "memory"}

    def __init__(self, options: EntNetOptions) -> None:
        super().__init__()
        self.options = o = options
        self.words = nn.Embedding(o.vocabulary, o.width)
        self.statement_places = nn.Parameter(torch.ones(o.inputs, o.width))
        self.question_places = nn.Parameter(torch.ones(o.asked, o.width))
        self.keys = nn.Parameter(functional.normalize(torch.randn(o.cells, o.width), dim=1))
        # U, V and W of the candidate, and the slope of phi, at first the identity.
        self.of_content = nn.Linear(o.width, o.width, bias=False)
        self.of_key = nn.Linear(o.width, o.width, bias=False)
        self.of_statement = nn.Linear(o.width, o.width, bias=False)
        self.slope = nn.Parameter(torch.ones(o.width))
        # H and R of the output, and the slope of its phi.
        self.of_answer = nn.Linear(o.width, o.width, bias=False)
        self.output = nn.Linear(o.width, o.outputs, bias=False)
        self.output_slope = nn.Parameter(torch.ones(o.width))

    def initial_state(self) -> dict[str, Tensor]:
        return {"entities": functional.normalize(self.keys, dim=1)}

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        words = inputs["x"]
        statement = (self._embedded(words) * self.statement_places).sum(dim=1)
        told = (words != NO_WORD).any(dim=1).reshape(-1, 1, 1)
        entities = state["entities"]
        concerns = (entities @ statement.unsqueeze(2)) + (statement @ self.keys.T).unsqueeze(2)
        gate = torch.sigmoid(concerns)
        candidate = _rectified(
            self.of_content(entities) + self.of_key(self.keys) + self.of_statement(statement).unsqueeze(1), self.slope
        )
        grown = entities + gate * candidate
        lengths: Tensor = torch.linalg.vector_norm(grown, dim=2, keepdim=True)
        following = torch.where(told, grown / torch.clamp(lengths, min=LENGTH_MIN), entities)

        question = (self._embedded(inputs["question"]) * self.question_places).sum(dim=1)
        attended = torch.softmax((following @ question.unsqueeze(2)).squeeze(2), dim=1)
        answer = (attended.unsqueeze(1) @ following).squeeze(1)
        logits = self.output(_rectified(question + self.of_answer(answer), self.output_slope))
        return logits, {"entities": following}

    def _embedded(self, words: Tensor) -> Tensor:
        """The embeddings of words `[B, L]`, zero where there is none; returns `[B, L, D]`."""
        embedded: Tensor = self.words(words)
        return embedded * (words != NO_WORD).unsqueeze(2)


def _rectified(x: Tensor, slope: Tensor) -> Tensor:
    """The parametric rectifier phi: x where it is positive, and slope x elsewhere."""
    return torch.relu(x) - slope * torch.relu(-x)
