"""The formulas of the papers written out slowly in numpy: one session, loops, no torch, no epsilon.

Equation numbers: Graves, Wayne, Danihelka 2014 (arXiv:1410.5401). The order of the head parameters in the
projection is the one thing here that comes from the module under test.
"""

import numpy as np


def content_weighting(key, strength, memory):
    """Eq. 5 over eq. 6."""
    scores = []
    for slot in memory:
        dot = sum(k * m for k, m in zip(key, slot, strict=True))
        cosine = dot / (np.sqrt(sum(k * k for k in key)) * np.sqrt(sum(m * m for m in slot)))
        scores.append(np.exp(strength * cosine))
    return np.array([score / sum(scores) for score in scores])


def interpolate(gate, content, previous):
    """Eq. 7."""
    return np.array([gate * c + (1 - gate) * p for c, p in zip(content, previous, strict=True)])


def shift(weighting, shift_weighting, offsets=(-1, 0, 1)):
    """Eq. 8: the sum over j of w(j) s(i - j), indices modulo N; s is a distribution over the offsets."""
    slots = len(weighting)
    s = np.zeros(slots)
    for offset, value in zip(offsets, shift_weighting, strict=True):
        s[offset % slots] += value
    return np.array([sum(weighting[j] * s[(i - j) % slots] for j in range(slots)) for i in range(slots)])


def sharpen(weighting, exponent):
    """Eq. 9."""
    powers = [w**exponent for w in weighting]
    return np.array([power / sum(powers) for power in powers])


def read(weighting, memory):
    """Eq. 2."""
    return sum(w * slot for w, slot in zip(weighting, memory, strict=True))


def write(memory, weightings, erases, adds):
    """Eq. 3 for every head, then eq. 4 for every head."""
    memory = memory.copy()
    for w, e in zip(weightings, erases, strict=True):
        for i in range(len(memory)):
            memory[i] = memory[i] * (1 - w[i] * e)
    for w, a in zip(weightings, adds, strict=True):
        for i in range(len(memory)):
            memory[i] = memory[i] + w[i] * a
    return memory


def gru(x, h, weights):
    """Cho et al. 2014 (arXiv:1406.1078), eq. 5 to 8: r, z, the candidate, and h = z h + (1 - z) candidate."""
    both = np.concatenate([x, h])
    z, r = np.split(sigmoid(weights["gates.weight"] @ both + weights["gates.bias"]), 2)
    candidate = np.tanh(weights["candidate.weight"] @ np.concatenate([x, r * h]) + weights["candidate.bias"])
    return z * h + (1 - z) * candidate


def step(weights, options, x, state, controller):
    """One whole step of one session. `controller(seen, state)` gives h and its next state."""
    heads, width, memory = options.read_heads + options.write_heads, options.width, state["memory"]
    h, controller_state = controller(np.concatenate([x, state["read_vector"].ravel()]), state)

    emitted = list(weights["heads.weight"] @ h + weights["heads.bias"])

    def take(rows, columns):
        return np.array([[emitted.pop(0) for _ in range(columns)] for _ in range(rows)])

    keys, strengths, gates, exponents, shifts = (take(heads, size) for size in (width, 1, 1, 1, 3))
    erases, adds = take(options.write_heads, width), take(options.write_heads, width)
    assert not emitted

    previous = [*state["read_weighting"], *state["write_weighting"]]
    weightings = []
    for head in range(heads):
        content = content_weighting(np.tanh(keys[head]), softplus(strengths[head, 0]), memory)
        gated = interpolate(sigmoid(gates[head, 0]), content, previous[head])
        shifted = shift(gated, np.exp(shifts[head]) / np.exp(shifts[head]).sum())
        weightings.append(sharpen(shifted, 1 + softplus(exponents[head, 0])))
    reading, writing = weightings[: options.read_heads], weightings[options.read_heads :]

    reads = np.array([read(w, memory) for w in reading])
    y = sigmoid(weights["output.weight"] @ np.concatenate([h, reads.ravel()]) + weights["output.bias"])
    return y, {
        "memory": write(memory, writing, sigmoid(erases), np.tanh(adds)),
        "read_weighting": np.array(reading),
        "write_weighting": np.array(writing),
        "read_vector": reads,
        **controller_state,
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log(1 + np.exp(x))
