"""Sessions that begin with a state of their caller's: it is theirs through all that becomes of them, bit for bit."""

import numpy as np
import pytest

from ntm_serve.beginning import digest_of, recorded_digest
from ntm_serve.durability import Durability
from ntm_serve.errors import InvalidInput, SessionDiffers, SessionExists
from ntm_serve.keeping import Retention
from ntm_serve.sessions import Limits
from ntm_serve.snapshot import decoded
from ntm_serve.spec import StateSpec, StepSpec, frozen
from ntm_serve.testing import RunningSum

from .replicas import CompanySum, replica

RETAINING = Retention(snapshot_steps=4, retain_steps=100)


def beginning_at(*total):
    return {"total": np.array(total, np.float32)}


@pytest.mark.parametrize("model", [RunningSum, CompanySum])
async def test_a_session_begins_with_the_state_that_it_was_given_and_comes_back_to_it(store, clock, model):
    async with replica(store, model(), clock=clock) as a:
        view = await a.open(initial_state=beginning_at(100))
        assert (view.next_step, view.oldest_retained_step, view.durable_step) == (0, 0, 0)
        assert view.state_bytes == 4
    async with replica(store, model(), clock=clock) as a:
        view = await a.service.get_session("s")
        assert (view.resident, view.next_step, view.oldest_step) == (False, 0, 0)
        assert await a.step("s", 1, 2) == pytest.approx([101, 103], abs=0.01)
    async with replica(store, model(), clock=clock) as a:
        again = await a.step("s", 1, 2, first=0)
        assert again == pytest.approx([101, 103], abs=0.01)
        assert await a.step("s", 3, first=2) == pytest.approx([106], abs=0.01)
        assert (await a.service.get_state("s", ["*"]))[1]["total"].tolist() == [106]


async def test_every_step_of_it_is_reached_from_where_it_began(store, clock):
    """Fork, rewind and snapshot at 0 and at each step after."""
    async with replica(store, clock=clock, retention=RETAINING, limits=Limits(window_messages=2)) as a:
        await a.open(initial_state=beginning_at(100))
        for step in range(10):
            await a.step("s", 1, first=step)
        await a.rest("s")
        for step in range(11):
            at, data = await a.service.snapshot_session("s", step)
            assert (at, decoded(data).state[0].tolist()) == (step, [100 + step])
            fork = await a.service.fork_session("s", fork_id=f"f{step}", step=step)
            assert fork.initial_state_digest
            assert await a.step(f"f{step}", 0) == [100 + step]
        assert (await a.service.rewind_session("s", 0)).next_step == 0
    async with replica(store, clock=clock) as a:
        assert await a.step("s", 5, first=0) == [105]
        assert await a.step("f7", 1, first=8) == [108]


async def test_another_server_takes_it_over_with_the_same_beginning(store, clock):
    async with replica(store, clock=clock, name="a", polls=True, handover_s=10) as a:
        opened = await a.open(initial_state=beginning_at(7))
        assert await a.step("s", 1) == [8]
        async with replica(store, clock=clock, name="b", polls=True, handover_s=10) as b:
            assert await b.step("s", 1, first=1) == [9]
            assert (await b.service.rewind_session("s", 0)).initial_state_digest == opened.initial_state_digest
            assert await b.step("s", 1, first=0) == [8]
            assert (await b.open(resume=True, initial_state=beginning_at(7))).next_step == 1


@pytest.mark.parametrize("durability", list(Durability)[:2])
@pytest.mark.parametrize("rested", [False, True])
async def test_what_is_resumed_with_another_beginning_is_refused_and_goes_on(store, clock, durability, rested):
    async with replica(store, clock=clock) as a:
        opened = await a.open(durability=durability, initial_state=beginning_at(100))
        assert opened.initial_state_digest == digest_of(a.models[0], (np.array([100], np.float32),))
        await a.step("s", 1)
        if rested and durability is not Durability.MEMORY:
            await a.rest("s")
        for same in (beginning_at(100), {}, None):
            view = await a.open(resume=True, initial_state=same)
            assert (view.next_step, view.initial_state_digest) == (1, opened.initial_state_digest)
        with pytest.raises(SessionDiffers, match="session s: cannot be resumed with this initial_state: it began with"):
            await a.open(resume=True, initial_state=beginning_at(101))
        with pytest.raises(SessionExists):
            await a.open(initial_state=beginning_at(100))
        assert await a.step("s", 1, first=1) == [102]


async def test_a_session_that_began_as_the_model_does_is_resumed_with_that_and_no_other(store, clock):
    async with replica(store, clock=clock) as a:
        assert (await a.open()).initial_state_digest == ""
        await a.step("s", 1)
        with pytest.raises(SessionDiffers, match="the model's own"):
            await a.open(resume=True, initial_state=beginning_at(1))
        assert (await a.open(resume=True, initial_state=beginning_at(0))).next_step == 1
    async with replica(store, clock=clock) as a:
        with pytest.raises(SessionDiffers):
            await a.open(resume=True, initial_state=beginning_at(1))
        assert (await a.service.list_sessions())[0].initial_state_digest == ""


async def test_the_beginning_is_known_when_the_store_has_let_it_go(store, clock):
    letting_go = Retention(snapshot_steps=2)
    async with replica(store, clock=clock, retention=letting_go, limits=Limits(window_messages=1)) as a:
        opened = await a.open(initial_state=beginning_at(100))
        for step in range(20):
            await a.step("s", 1, first=step)
        assert (await a.service.get_session("s")).oldest_retained_step > 0
    assert store.read("s").snapshots[0].step > 0
    assert recorded_digest(store.read("s").head.options) == opened.initial_state_digest
    async with replica(store, clock=clock) as a:
        assert [one.initial_state_digest for one in await a.service.list_sessions()] == [opened.initial_state_digest]
        assert (await a.open(resume=True, initial_state=beginning_at(100))).next_step == 20
        with pytest.raises(SessionDiffers):
            await a.open(resume=True, initial_state=beginning_at(101))


class TwoParts(RunningSum):
    """A running sum that carries a whole number along, as it is."""

    def __init__(self):
        super().__init__(width=2)
        spec = self.spec
        self.spec = StepSpec(spec.inputs, spec.outputs, (*spec.state, StateSpec("mark", "int32", (2, 2), "usage")))
        self.initial_state = (*self.initial_state, frozen(np.arange(4, dtype=np.int32).reshape(2, 2)))

    def run(self, inputs, state):
        outputs, following = super().run(inputs, state[:1])
        return outputs, [*following, state[1].copy()]


async def test_what_is_not_given_is_the_models_own(store, clock):
    # As floats these would be NaN and infinity.
    marks = np.array([[0x7FC00000, 0x7F800000], [-1, -(2**31)]], np.int32)
    given = [{}, {"total": np.array([1, 2], np.float32)}, {"mark": marks}, {"mark": marks, "total": np.ones(2, "f4")}]
    async with replica(store, TwoParts(), clock=clock) as a:
        for place, initial in enumerate(given):
            await a.open(f"s{place}", initial_state=initial)
    async with replica(store, TwoParts(), clock=clock) as a:
        own = dict(zip(["total", "mark"], a.models[0].initial_state, strict=True))
        for place, initial in enumerate(given):
            _, state = await a.service.get_state(f"s{place}", ["*"])
            for name, array in (own | initial).items():
                assert state[name].dtype == array.dtype
                assert state[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"totals": np.zeros(2, "f4")}, r"expected some of \['total', 'mark'\], .* running-sum/1, got \['totals'\]"),
        ({"total": np.zeros(3, "f4")}, r"initial_state: total: expected float32\[2\], got float32\[3\]"),
        ({"total": np.zeros((1, 2), "f4")}, r"total: expected float32\[2\], got float32\[1, 2\]"),
        ({"total": np.zeros(2)}, r"total: expected float32\[2\], got float64\[2\]"),
        ({"mark": np.zeros((2, 2), "f4")}, r"mark: expected int32\[2, 2\], got float32\[2, 2\]"),
        ({"total": np.array([0, np.nan], "f4")}, r"initial_state: total: expected finite numbers, got nan at \[1\]"),
        ({"total": np.array([-np.inf, 0], "f4")}, r"total: expected finite numbers, got -inf at \[0\]"),
    ],
)
async def test_what_is_no_state_of_the_model_is_refused_and_opens_nothing(store, clock, given, told):
    async with replica(store, TwoParts(), clock=clock) as a:
        with pytest.raises(InvalidInput, match=told):
            await a.open(initial_state=given)
        assert await a.service.list_sessions() == []
        await a.open()


async def test_begun_again_by_the_same_call_it_is_the_same_session(store, clock):
    """The store took it, and its answer was lost."""
    async with replica(store, clock=clock) as a:
        store.loses["create"] = 1
        await a.open(initial_state=beginning_at(100))
        assert await a.step("s", 1) == [101]


async def test_what_the_caller_does_with_its_array_afterwards_changes_nothing(store, clock):
    mine = np.full((2, 1), 100, np.float32)
    async with replica(store, clock=clock) as a:
        await a.open(initial_state={"total": mine[1]})
        mine[:] = 0
        assert await a.step("s", 1) == [101]


async def test_a_large_state_is_begun_with_as_a_small_one_is(store, clock):
    width = 300_000
    total = np.random.default_rng(1).standard_normal(width).astype(np.float32)
    async with replica(store, RunningSum(width=width), clock=clock) as a:
        await a.open(initial_state={"total": total})
    async with replica(store, RunningSum(width=width), clock=clock) as a:
        assert (await a.service.get_state("s", ["total"]))[1]["total"].tobytes() == total.tobytes()
        with pytest.raises(SessionDiffers):
            await a.open(resume=True, initial_state={"total": total + 1})
        total[-1] = np.nan
        with pytest.raises(InvalidInput, match="got nan at"):
            await a.open("t", initial_state={"total": total})
