"""What a store takes up after a day of sessions that come, make steps, rest and go."""

import numpy as np
import pytest

from ntm_serve.engine import OrtEngine
from ntm_serve.keeping import RECORD_OVERHEAD_BYTES
from ntm_serve.message import StepRequest
from ntm_serve.model_directory import read_model_directory
from ntm_serve.sessions import Limits
from ntm_serve.stores.sqlite import SqliteStore

from .replicas import replica

HOURS = 24
IDLE_LIFE_S = 5 * 3600.0
OPENED_AN_HOUR = 16
CLOSED_AN_HOUR = 10
# What SQLite takes for pages that are not full, for its tables, and for what is swept out later.
FILE_BYTES = 2 << 20


@pytest.fixture(scope="module")
def copy_lstm(zoo):
    return OrtEngine(read_model_directory(zoo / "copy-lstm" / "1"), name="copy-lstm", version="1", batch_max=64)


async def expired_at(server, ids, x):
    """Step these sessions, x `[S, T, 9]`; those that had expired. One that came back while this process stood still
    for longer than its lease is asked for again, as clients do.
    """
    gone = set()
    while ids:
        answer = await server.service.step(StepRequest(ids, [None] * len(ids), {"x": x}))
        faults = {place: error.reason for place, error in answer.errors.items()}
        assert set(faults.values()) <= {"EXPIRED", "OWNED_ELSEWHERE"}
        gone |= {ids[place] for place, reason in faults.items() if reason == "EXPIRED"}
        again = [place for place, reason in faults.items() if reason == "OWNED_ELSEWHERE"]
        ids, x = [ids[place] for place in again], x[again]
    return gone


@pytest.mark.parametrize("window", [1, 64])
async def test_a_day_of_churn_leaves_what_lives_and_what_was_asked_to_be_kept(copy_lstm, tmp_path, clock, window):
    store, random = SqliteStore(tmp_path / "sessions.db"), np.random.default_rng(0)
    limits = Limits(idle_life_s=IDLE_LIFE_S, window_messages=window)
    state_bytes, opened, steps = copy_lstm.spec.state_bytes, 0, 0
    room = 120 * state_bytes
    async with replica(store, copy_lstm, clock=clock, limits=limits, resident_bytes_max=room, leaves=True) as server:
        live: list[str] = []
        for _ in range(HOURS):
            for _ in range(OPENED_AN_HOUR):
                live.append((await server.open(f"s{opened}")).session_id)
                opened += 1
            for _ in range(15):
                ids = [str(one) for one in random.choice(live, min(16, len(live)), replace=False)]
                shape = (len(ids), int(random.integers(1, 12)), 9)
                x = random.integers(0, 2, shape).astype(np.float32)
                gone = await expired_at(server, ids, x)
                live = [one for one in live if one not in gone]
                steps += shape[0] * shape[1]
            for session_id in random.choice(live, CLOSED_AN_HOUR, replace=False):
                await server.service.close_session(str(session_id))
                live.remove(str(session_id))
            clock.pass_(3600)
            await server.service.expire_sessions()
        statistics = store.statistics()
    assert steps > 20_000
    # Then it has what lives: a state for each, half as much of log, and the messages that retries may ask for.
    longest_message_bytes = 11 * copy_lstm.spec.inputs[0].nbytes + RECORD_OVERHEAD_BYTES
    retention_bytes = statistics.sessions * window * longest_message_bytes
    if window > 1:  # They lead from a state of before.
        retention_bytes += statistics.sessions * state_bytes
    live_bytes = statistics.sessions * state_bytes
    assert statistics.payload_bytes <= 1.5 * live_bytes + retention_bytes
    assert (tmp_path / "sessions.db").stat().st_size <= 1.5 * live_bytes + retention_bytes + FILE_BYTES
    assert statistics.ended > opened / 2
