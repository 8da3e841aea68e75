"""The flows task and its packets."""

from itertools import islice

import numpy as np
import pytest

from ntm_models.tasks.flows import UNSCORED, Flows
from ntm_models.tasks.packets import ATTACKS, BENIGN, beacon, browse, chat, guessing, slow_requests, upload

SENDER, SIZE, GAP, OPENS = range(4)


def packets(kind, seed=1, number=400):
    return np.array(list(islice(kind(np.random.default_rng(seed)), number)))


def test_half_of_the_flows_are_benign_and_each_attack_has_an_output_of_its_own():
    episodes = Flows().episodes(length=20, sequences=2000, seed=3)
    wanted = episodes.y[:, 0]
    assert (episodes.y == wanted[:, np.newaxis]).all()
    assert set(wanted.sum(axis=1)) == {0, 1}
    assert 0.45 < wanted.sum(axis=1).mean() < 0.55
    assert np.allclose(wanted.mean(axis=0), 0.125, atol=0.03)
    assert episodes.scored.tolist() == [at >= UNSCORED for at in range(20)]


def test_every_flow_is_opened_by_the_client_and_accepted_by_the_server_once():
    x = Flows().episodes(length=30, sequences=100, seed=3).x
    assert x[:, :2, OPENS].all()
    assert not x[:, 2:, OPENS].any()
    assert (x[:, 0, SENDER] == 1).all()
    assert (x[:, 1, SENDER] == 0).all()


@pytest.mark.parametrize("kind", [*BENIGN, *ATTACKS], ids=lambda kind: kind.__name__)
def test_sizes_and_gaps_are_within_their_scales(kind):
    seen = packets(kind)
    assert seen.shape == (400, 5)
    assert (seen[:, [SIZE, GAP]] >= -0.05).all()
    assert (seen[:, [SIZE, GAP]] <= 1.05).all()


def test_what_an_attack_repeats_a_benign_flow_of_the_same_packets_does_not():
    refusals, answers = (one[one[:, SENDER] == 0, SIZE] for one in (packets(guessing), packets(chat)))
    assert refusals.std() < 0.02 < answers.std()
    beats, requests = (one[one[:, SENDER] == 1, GAP] for one in (packets(beacon), packets(chat)))
    assert beats.std() < 0.02 < requests.std()
    assert packets(slow_requests)[:, SENDER].mean() > 0.9 > packets(chat)[:, SENDER].mean()


def test_an_upload_is_announced_by_a_large_answer_and_browsing_sends_nothing_large():
    large = packets(upload)[:, SIZE] > 0.7
    assert packets(upload)[large, SENDER][:2].tolist() == [0, 0]
    assert packets(upload)[large, SENDER][2:].all()
    browsed = packets(browse)
    assert not browsed[browsed[:, SIZE] > 0.7, SENDER].any()
