"""Lineage: a session's states at its steps, and the sessions that begin there: forked, rewound, restored.

Rules of this file: what a session is taken back to is what it was, or it is refused; a fork changes nothing of its
parent; what a snapshot's bytes say is checked against the model before anybody steps from there.
"""

from collections.abc import Mapping
from functools import partial

from ntm_serve.beginning import Beginning, recorded
from ntm_serve.claims import Claims
from ntm_serve.durability import Durability
from ntm_serve.errors import InvalidInput, SnapshotRejected, StepAborted, StepForgotten
from ntm_serve.keeping import Kept
from ntm_serve.replay import Replay, bases_of, steps_again
from ntm_serve.residency import Residency
from ntm_serve.scheduler import Scheduler, scheduler_of
from ntm_serve.sessions import Session
from ntm_serve.sizes import Sizes, sized_spec, sizes_of_state
from ntm_serve.snapshot import SavedState, expect_state
from ntm_serve.spec import expect_finite
from ntm_serve.step_model import ModelKey, StepModel


class Lineage:
    """Of the sessions of a server."""

    def __init__(
        self,
        residency: Residency,
        replay: Replay,
        *,
        schedulers: Mapping[ModelKey, Scheduler],
        claims: Claims | None,
    ) -> None:
        self._residency = residency
        self._replay = replay
        self._schedulers = schedulers
        self._claims = claims

    async def saved_state(self, session_id: str, step: int | None) -> tuple[Session, SavedState]:
        """A session, and its state before that step, or as it stands. Raises as Residency.find, and StepForgotten and
        InvalidInput for a step that it cannot be taken back to.
        """
        session = await self._residency.find(session_id)
        if step is None or step == session.next_step:
            return session, self._saved(session)
        _expect_retained(session, step)
        _pay(session, step)
        past = await self._past(session, step)
        saved = self._saved(past)
        # The block knows its holder, which knows the block: left so, both would wait for the garbage collector.
        past.state.block.let_go(past.state.row, past)
        return session, saved

    async def fork(
        self, session_id: str, fork_id: str | None, step: int | None, durability: Durability | None
    ) -> Session:
        """A new session where another stands, or stood before that step. Raises as `saved_state`, Residency.create."""
        session, saved = await self.saved_state(session_id, step)
        if durability is None:
            durability = Durability.MEMORY if session.kept is None else session.kept.durability
        # It began as the other did.
        began = Beginning(saved, session.options)
        scheduler = await self._schedulers[session.model].sized(session.sizes, comes_back=True)
        with scheduler.use.one_more():
            return await self._residency.create(scheduler, fork_id, durability, beginning=began)

    async def restore(self, saved: SavedState, session_id: str | None, durability: Durability | None) -> Session:
        """A new session where a snapshot was taken. Raises SnapshotRejected where no model that is served made it,
        InvalidInput where the state is not finite, and as Residency.create.
        """
        for served in self._schedulers.values():
            card = served.model.card
            if (card.digest, card.name) == (saved.digest, saved.model) or (
                saved.digest and card.digest == saved.digest
            ):
                sizes = _sizes_of(saved, served.model)
                # Before anything is made for its sizes.
                specs = sized_spec(served.model.spec, sizes).state
                expect_state(saved, card, specs, what="snapshot", fault=SnapshotRejected)
                for spec, array in zip(specs, saved.state, strict=True):
                    expect_finite(f"snapshot: {spec.name}", array)
                self._residency.expect_free(served.key, sized_spec(served.model.spec, sizes).state_bytes, session_id)
                began = Beginning(saved, recorded(sizes=sizes))
                with self._residency.making(served, sizes, session_id):
                    scheduler = await served.sized(sizes)
                    with scheduler.use.one_more():
                        return await self._residency.create(scheduler, session_id, durability, beginning=began)
        known = ", ".join(f"{key} with digest {one.model.card.digest}" for key, one in self._schedulers.items())
        raise SnapshotRejected(
            f"snapshot: expected one of a model that is served here ({known}), "
            f"got one of {saved.model}/{saved.version} with digest {saved.digest}"
        )

    async def rewind(self, session_id: str, step: int) -> Session:
        """Take a session back to that step. Steps in flight are answered with StepAborted. Raises as `saved_state`."""

        def expect(session: Session) -> None:
            if step != session.next_step:
                _expect_retained(session, step)
            # While the session is still here: a refusal changes nothing.
            _pay(session, step)

        aborted = StepAborted(f"session {session_id}: was rewound to step {step}")
        return await self._residency.replace(
            session_id, partial(self._rewound, step=step), expect=expect, fault=aborted
        )

    async def _rewound(self, session: Session, *, step: int) -> Session:
        """Who takes a session's place, at that step."""
        claims, kept, scheduler = self._claims, session.kept, scheduler_of(self._schedulers, session)
        if claims is None or kept is None:
            return self._replay.begun(session.id, scheduler, self._saved(session), session.options)
        with scheduler.use.one_more():
            past = await self._past(session, step)
            start = kept.snapshot_of(step, past.state.arrays(), scheduler.model)
            await claims.restart(kept.claim, start, kept.durability)
        past.kept = Kept(kept.claim, kept.durability, [step], 0)
        past.window.clear()
        return past

    async def _past(self, session: Session, step: int) -> Session:
        """The session as it stood before that step, in no table."""
        assert self._claims is not None, "only a store knows the past"
        stored = await self._claims.read(session.id)
        # Since it was found to be retained, others may have gone on with the session, or rewound it.
        _expect_between(session, bases_of(stored)[0], step, stored.next_step)
        return await self._replay.replayed(stored, from_step=None, to_step=step)

    def _saved(self, session: Session) -> SavedState:
        """Its state by itself: a session's is a row of a block with others'."""
        card = self._schedulers[session.model].model.card
        state = tuple([array.copy() for array in session.state.arrays()])
        return SavedState(card.name, card.version, card.digest, card.engine, session.id, session.next_step, state)


def _sizes_of(saved: SavedState, model: StepModel) -> Sizes:
    """The sizes that a snapshot's state has. Raises SnapshotRejected."""
    try:
        return sizes_of_state(model.spec, saved.state)
    except InvalidInput as fault:
        raise SnapshotRejected(f"snapshot: {fault.message}") from fault


def _pay(session: Session, step: int) -> None:
    """Pay for what is run again to have the session's state before that step. Raises LimitReached."""
    if session.account is not None and session.kept is not None:
        session.account.pay(steps_again(session.kept.snapshot_steps, step))


def _expect_retained(session: Session, step: int) -> None:
    _expect_between(session, session.oldest_retained_step, step, session.next_step)


def _expect_between(session: Session, oldest: int, step: int, newest: int) -> None:
    """Refuse a step that the session cannot be taken back to. Raises StepForgotten, InvalidInput."""
    if oldest <= step <= newest:
        return
    why = "what led there was let go; a server with --retain-steps keeps so many steps at least"
    if session.kept is None:
        why = "it lives in memory alone, and has no past; one of durability process or disk has"
    message = f"session {session.id}: expected a step from {oldest} to {newest}, got {step}"
    if step < oldest:
        raise StepForgotten(f"{message}: {why}", fields={"oldest_step": str(oldest)})
    raise InvalidInput(message)
