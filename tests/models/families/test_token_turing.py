"""The Token Turing Machine's step against its equations written out slowly."""

import numpy as np
import pytest
import torch

from ntm_models.families.token_turing import TokenTuringMachine, TokenTuringOptions

SIZES = TokenTuringOptions(inputs=5, outputs=3, tokens=2, memory_tokens=4, read_tokens=3, width=6)


@pytest.fixture
def step():
    torch.manual_seed(7)
    return TokenTuringMachine(SIZES).double()


def norm(token, weights, name):
    scaled = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(token, weights, name):
    return weights[f"{name}.weight"] @ token + weights[f"{name}.bias"]


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum()


def summary(tokens, weights, name):
    """S_k: k sums of the tokens, weighed by a softmax over them of what an MLP says of each."""
    scores = []
    for token, position in zip(tokens, weights[f"{name}.positions"], strict=True):
        hidden = np.maximum(linear(norm(token + position, weights, f"{name}.norm"), weights, f"{name}.hidden"), 0)
        scores.append(linear(hidden, weights, f"{name}.weights"))
    return [sum(w * token for w, token in zip(softmax(of_one), tokens, strict=True)) for of_one in np.array(scores).T]


def process(tokens, weights):
    """A transformer layer of one head."""
    three = [np.split(linear(norm(t, weights, "process.first_norm"), weights, "process.seeing"), 3) for t in tokens]
    processed = []
    for token, (query, _, _) in zip(tokens, three, strict=True):
        shares = softmax(np.array([query @ key / np.sqrt(SIZES.width) for _, key, _ in three]))
        seen = sum(share * value for share, (_, _, value) in zip(shares, three, strict=True))
        token = token + linear(seen, weights, "process.seen")
        hidden = np.maximum(linear(norm(token, weights, "process.second_norm"), weights, "process.hidden"), 0)
        processed.append(token + linear(hidden, weights, "process.out"))
    return processed


def test_a_step_is_read_process_write(step):
    weights = {name: value.detach().numpy() for name, value in step.state_dict().items()}
    random = np.random.default_rng(1)
    frame, memory = random.normal(size=(2, 5)), random.normal(size=(4, 6))
    seen = [linear(token, weights, "embed") for token in frame]
    processed = process(summary([*memory, *seen], weights, "read"), weights)
    y = 1 / (1 + np.exp(-linear(np.concatenate(processed), weights, "output")))
    written = summary([*memory, *processed, *seen], weights, "write")

    outputs, following = step({"x": torch.tensor(frame[None])}, {"memory": torch.tensor(memory[None])})
    np.testing.assert_allclose(outputs["y"].detach().numpy()[0], y)
    np.testing.assert_allclose(following["memory"].detach().numpy()[0], np.array(written))


def test_a_memory_token_is_a_mean_of_tokens_so_no_run_makes_it_grow(step):
    x = torch.randn(1, 2, 5, dtype=torch.double)
    state = {"memory": 100 * torch.randn(1, 4, 6, dtype=torch.double)}
    largest = state["memory"].abs().max()
    with torch.no_grad():
        for _ in range(50):
            _, state = step({"x": x}, state)
            assert state["memory"].abs().max() <= largest


def test_the_order_of_a_frames_tokens_may_matter_and_the_memorys_tokens_are_not_the_inputs(step):
    x, memory = torch.randn(1, 2, 5, dtype=torch.double), torch.randn(1, 4, 6, dtype=torch.double)
    once = step({"x": x}, {"memory": memory})[0]["y"]
    assert not torch.allclose(once, step({"x": x.flip(1)}, {"memory": memory})[0]["y"])
    assert not torch.allclose(once, step({"x": x}, {"memory": memory.flip(1)})[0]["y"])


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="memory_tokens: expected at least 1, got 0"):
        TokenTuringOptions(inputs=1, outputs=1, tokens=1, memory_tokens=0)
