"""Every family has learned something: its shipped weights, through a server, against what needs no memory."""

import numpy as np

from ntm_models.evaluate import evaluate
from ntm_models.tasks import OUTPUT
from ntm_models.zoo import FRESH_SEED, FRESH_SEQUENCES, fault_of_claim

# A model that remembers makes at most so large a share of the mistakes of one that does not.
SHARE_MAX = 0.5


def forgetful(shown, episodes):
    """The outputs of the same weights in a session that is new at every step, and given what it is given each time."""
    spec = shown.directory.spec
    rows, given = len(episodes.x) * episodes.steps, []
    inputs = [episodes.inputs[one.name].reshape(rows, *one.shape) for one in spec.inputs]
    scored = [one.name for one in spec.outputs].index(OUTPUT)
    for start in range(0, rows, shown.engine.batch_max):
        some = [array[start : start + shown.engine.batch_max] for array in inputs]
        sessions = np.arange(start, start + len(some[0])) // episodes.steps
        state = [
            episodes.initial_state[one.name][sessions]
            if one.name in episodes.initial_state
            else np.repeat(array[np.newaxis], len(sessions), axis=0)
            for one, array in zip(spec.state, shown.directory.initial_state, strict=True)
        ]
        given.append(shown.engine.run(some, state)[0][scored])
    return np.concatenate(given).reshape(episodes.y.shape)


def constant(episodes):
    """The outputs that are the best of those that never change: each bit's, or the classes', share."""
    counted = np.broadcast_to(episodes.scored, episodes.y.shape[:2])
    return np.broadcast_to(episodes.y[counted].mean(axis=0), episodes.y.shape).astype(np.float32)


def test_the_score_is_what_is_claimed_and_far_better_than_without_memory(shown, client):
    task, claim = shown.source.scored, shown.entry.claims[0]
    measured = evaluate(
        client, shown.name, task, length=claim.length, sequences=FRESH_SEQUENCES, seed=FRESH_SEED
    )  # fmt: skip
    assert fault_of_claim(claim, measured) == ""
    episodes = task.episodes(length=claim.length, sequences=FRESH_SEQUENCES, seed=FRESH_SEED)
    for without_memory in (forgetful(shown, episodes), constant(episodes)):
        assert measured.score <= SHARE_MAX * episodes.score(without_memory).mean()
