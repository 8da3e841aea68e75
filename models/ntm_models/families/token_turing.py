"""The Token Turing Machine as one pure step (Ryoo et al. 2023, "Token Turing Machines", arXiv:2211.09119).

A step sees a fixed number of tokens, n, and a memory of m tokens. Each of C channels:
1. read: r tokens that summarise memory and input, Z = S_r([M || I]);
2. process: a transformer layer on them, O = Process(Z);
3. write: m tokens that summarise memory, output and input, M' = S_m([M || O || I]);
4. the step's output is read off the processed tokens by one linear layer.

S_k weighs: k softmaxes over all tokens, w = softmax(MLP(V)), and k weighted sums, w V. Positions are added before the
weights are made, so that memory, output and input are told apart; what is summed has none, or a memory would gather
them step by step. So each next memory token is a mean of tokens, and no run of any length makes it grow.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one

POSITION_SCALE = 0.02


@dataclass(frozen=True)
class TokenTuringOptions:
    """Sizes: channels of an input token I, input tokens n, outputs O, memory tokens m, tokens read r, width C."""

    inputs: int
    outputs: int
    tokens: int
    memory_tokens: int = 16
    read_tokens: int = 4
    width: int = 32

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "tokens", "memory_tokens", "read_tokens", "width")


class Summary(nn.Module):
    """S_k of a fixed number of tokens: k weighted sums of them."""

    def __init__(self, tokens: int, width: int, summarised: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(POSITION_SCALE * torch.randn(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 2 * width)
        self.weights = nn.Linear(2 * width, summarised)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens `[B, V, C]`; returns `[B, k, C]`."""
        hidden = torch.relu(self.hidden(self.norm(tokens + self.positions)))
        shares = torch.softmax(self.weights(hidden), dim=1).transpose(1, 2)
        return shares @ tokens


class Process(nn.Module):
    """One layer of a transformer with one head: each token sees the others, then itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.seeing = nn.Linear(width, 3 * width)
        self.seen = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens `[B, r, C]`; returns as many."""
        queries, keys, values = self.seeing(self.first_norm(tokens)).chunk(3, dim=2)
        attention = torch.softmax(queries @ keys.transpose(1, 2) / self.width**0.5, dim=2)
        tokens = tokens + self.seen(attention @ values)
        processed: Tensor = tokens + self.out(torch.relu(self.hidden(self.second_norm(tokens))))
        return processed


class TokenTuringMachine(TrainableStep):
    """A Token Turing Machine's step. State of one session: memory `[m, C]`."""

    family = "token-turing"
    options_kind = TokenTuringOptions
    roles: Mapping[str, str] = {"memory": "memory"}

    def __init__(self, options: TokenTuringOptions) -> None:
        super().__init__()
        self.options = o = options
        self.embed = nn.Linear(o.inputs, o.width)
        self.read = Summary(o.memory_tokens + o.tokens, o.width, o.read_tokens)
        self.process = Process(o.width)
        self.write = Summary(o.memory_tokens + o.read_tokens + o.tokens, o.width, o.memory_tokens)
        self.output = nn.Linear(o.read_tokens * o.width, o.outputs)
        self.first_memory = nn.Parameter(POSITION_SCALE * torch.randn(o.memory_tokens, o.width))

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis: learned."""
        return {"memory": self.first_memory}

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, n, I]`, state with a batch axis; see TrainableStep."""
        seen, memory = self.embed(inputs["x"]), state["memory"]
        processed = self.process(self.read(torch.cat([memory, seen], dim=1)))
        return self.output(processed.flatten(1)), {"memory": self.write(torch.cat([memory, processed, seen], dim=1))}
