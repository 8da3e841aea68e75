"""Several models of the same shape, trained side by side: one rollout for all of them.

A training step of one small model is bound by the overhead of its operations, not by their arithmetic, so
several seeds cost little more than one. Letters: P models, B sequences each, T steps, O outputs.

Rules of this file: the models never meet; what one gives does not depend on which others stand beside it, but
for the last bits of an addition; a model can be taken out as a state_dict at any time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ntm_models.trainable import SequenceStep, TrainableStep

State = dict[str, Tensor]


class Population:
    """P step modules. parameters: by name, each with a leading axis of P.

    compiled: let torch compile the step. About twice as fast after half a minute, needs a C++ compiler, and
    gives other last bits than without.
    """

    def __init__(self, steps: Sequence[TrainableStep], *, compiled: bool = False) -> None:
        self.size = len(steps)
        self.activated = steps[0].activated
        stacked, _ = stack_module_state([_Called(step) for step in steps])
        self.parameters: dict[str, Tensor] = dict(stacked)
        called = _Called(steps[0])
        self._start = vmap(lambda parameters: functional_call(called, parameters, (None, {})))
        step = vmap(lambda parameters, inputs, state: functional_call(called, parameters, (inputs, state)))
        # Every batch has the same shape; shapes that are free make slower code.
        self._step: Any = torch.compile(step, dynamic=False) if compiled else step
        self._sequence = called if isinstance(steps[0], SequenceStep) else None

    def logits(self, inputs: Mapping[str, Tensor], given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits of every step from the initial states. inputs `[P, B, T, ...]`; returns `[P, B, T, O]`.

        given: state tensors `[P, B, ...]` that sessions begin with in place of the models' own.
        """
        if self._sequence is not None and not given:
            each = [{name: array[nth] for name, array in inputs.items()} for nth in range(self.size)]
            return torch.stack(
                [functional_call(self._sequence, self._of(nth), (one, None)) for nth, one in enumerate(each)]
            )
        _, rows, steps = next(iter(inputs.values())).shape[:3]
        first: State = self._start(self.parameters)
        # Contiguous, as every later state is: a compiled step is one for each layout that it meets.
        state = {
            name: value.unsqueeze(1).expand(-1, rows, *value.shape[1:]).contiguous() for name, value in first.items()
        }
        state |= given or {}
        logits = []
        for at in range(steps):
            seen = {name: array[:, :, at].contiguous() for name, array in inputs.items()}
            now, state = self._step(self.parameters, seen, state)
            logits.append(now)
        return torch.stack(logits, dim=2)

    def state_dict(self, of: int) -> dict[str, Tensor]:
        """The weights of one model, as its own module's `state_dict` has them."""
        return {name.removeprefix(_Called.PREFIX): value.detach().clone() for name, value in self._of(of).items()}

    def _of(self, nth: int) -> dict[str, Tensor]:
        return {name: value[nth] for name, value in self.parameters.items()}

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Take over the weights of all models, as `parameters` has them."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(parameters[name])


class _Called(nn.Module):
    """A step under the one name by which `functional_call` can call it: its initial state where there are no inputs,
    the logits of a sequence where there is no state, or those of one step.
    """

    PREFIX = "step."

    def __init__(self, step: TrainableStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, inputs: State | None, state: State | None) -> State | Tensor | tuple[Tensor, State]:
        if inputs is None:
            return self.step.initial_state()
        if state is None:
            assert isinstance(self.step, SequenceStep)
            return self.step.sequence_logits(inputs)
        return self.step.logits(inputs, state)
