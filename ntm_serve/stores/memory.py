"""A store in a dict: for tests, as the model that other stores are compared to, and for sessions that may
end with the process.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ntm_serve.errors import NtmServeError
from ntm_serve.store import (
    Claim,
    Commit,
    Ending,
    Head,
    LogRecord,
    Snapshot,
    Store,
    StoredSession,
    StoredSummary,
    StoreStatistics,
)
from ntm_serve.stores import rules
from ntm_serve.stores.claims import Claims


@dataclass(slots=True)
class _Session:
    head: Head
    used_at_s: float
    next_step: int = 0
    oldest_step: int = 0
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    records: list[LogRecord] = field(default_factory=list)


def _begun(head: Head, used_at_s: float, start: Snapshot | None) -> _Session:
    """One that made no step."""
    if start is None:
        return _Session(head, used_at_s)
    return _Session(head, used_at_s, start.step, start.step, {start.step: start})


@dataclass(frozen=True, slots=True)
class _Ended:
    """epoch: of the claim that ended it, 0 where none did."""

    ending: Ending
    message: str
    ended_at_s: float
    epoch: int


class MemoryStore(Store):
    """The contract of `Store`, forgotten when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims = Claims(first_epoch=1)
        self._open: dict[str, _Session] = {}
        self._ended: dict[str, _Ended] = {}

    @property
    def is_local(self) -> bool:
        return True

    def keep_alive(self, owner: str, *, now_s: float, lease_s: float) -> None:
        with self._lock:
            self._claims.keep_alive(owner, now_s + lease_s)

    def create(self, session_id: str, head: Head, *, owner: str, now_s: float, start: Snapshot | None = None) -> Claim:
        with self._lock:
            session = self._open.get(session_id)
            if session is not None:
                same = session == _begun(head, session.used_at_s, start)
                if not same or self._claims.newest(session_id).owner != owner:
                    raise rules.exists(session_id)
            else:
                self._ended.pop(session_id, None)
                self._open[session_id] = _begun(head, now_s, start)
            return self._claims.grant(session_id, owner)

    def restart(self, claim: Claim, start: Snapshot, *, used_at_s: float) -> None:
        with self._lock:
            fault = self._fault(claim)
            if fault is not None:
                raise fault
            self._open[claim.session_id] = _begun(self._open[claim.session_id].head, used_at_s, start)

    def claim(self, session_id: str, *, owner: str, now_s: float) -> tuple[Claim, StoredSession]:
        with self._lock:
            session = self._find(session_id)
            self._claims.expect_free(session_id, owner, now_s)
            claim = self._claims.grant(session_id, owner)
            return claim, self._stored(session_id, session)

    def wanted(self, owner: str) -> Sequence[str]:
        with self._lock:
            return self._claims.wanted(owner)

    def commit(self, commits: Sequence[Commit]) -> Sequence[NtmServeError | None]:
        with self._lock:
            return [self._commit(commit) for commit in commits]

    def sync(self) -> None:
        """There is no more to lose."""

    def tidy(self) -> None:
        """Nothing waits."""

    def release(self, claims: Sequence[Claim]) -> None:
        with self._lock:
            self._claims.release(claims)

    def end(
        self, claims: Sequence[Claim], ending: Ending, message: str, *, now_s: float
    ) -> Sequence[NtmServeError | None]:
        with self._lock:
            return [self._end(claim, ending, message, now_s) for claim in claims]

    def read(self, session_id: str) -> StoredSession:
        with self._lock:
            return self._stored(session_id, self._find(session_id))

    def list(self, *, after: str, limit: int, model: str = "") -> Sequence[StoredSummary]:
        with self._lock:
            ids = sorted(
                one for one, session in self._open.items() if one > after and model in ("", session.head.model)
            )
            return [self._summary(session_id, self._open[session_id]) for session_id in ids[:limit]]

    def expire(self, *, unused_since_s: float, message: str, now_s: float, limit: int) -> Sequence[str]:
        with self._lock:
            unused = [
                session_id
                for session_id, session in self._open.items()
                if session.used_at_s < unused_since_s and not self._claims.is_alive(session_id, now_s)
            ][:limit]
            for session_id in unused:
                self._bury(session_id, _Ended(Ending.EXPIRED, message, now_s, 0))
            return unused

    def forget(self, *, ended_before_s: float) -> int:
        with self._lock:
            forgotten = [one for one, ended in self._ended.items() if ended.ended_at_s < ended_before_s]
            for session_id in forgotten:
                del self._ended[session_id]
            return len(forgotten)

    def statistics(self) -> StoreStatistics:
        with self._lock:
            records = [record for session in self._open.values() for record in session.records]
            snapshots = [snapshot for session in self._open.values() for snapshot in session.snapshots.values()]
            size_bytes = sum(len(one.payload) for one in records) + sum(len(one.payload) for one in snapshots)
            return StoreStatistics(
                len(self._open), len(self._ended), len(records), len(snapshots), size_bytes, size_bytes
            )

    def close(self) -> None:
        """There is nothing to close."""

    def _find(self, session_id: str) -> _Session:
        session = self._open.get(session_id)
        if session is None:
            raise self._why_not(session_id)
        return session

    def _why_not(self, session_id: str) -> NtmServeError:
        ended = self._ended.get(session_id)
        return rules.unknown(session_id) if ended is None else rules.ended(session_id, ended.ending, ended.message)

    def _fault(self, claim: Claim) -> NtmServeError | None:
        if self._claims.is_held(claim):
            return None
        if claim.session_id not in self._open:
            return self._why_not(claim.session_id)
        return rules.owned_elsewhere(claim.session_id, self._claims.newest(claim.session_id).owner)

    def _commit(self, commit: Commit) -> NtmServeError | None:
        fault = self._fault(commit.claim)
        if fault is not None:
            return fault
        session = self._open[commit.claim.session_id]
        if rules.may_be_kept_already(commit, session.next_step) and rules.is_kept_already(
            commit, session.records[-1] if session.records else None
        ):
            return None
        try:
            next_step = rules.next_step_after(commit, next_step=session.next_step, oldest_step=session.oldest_step)
        except NtmServeError as error:
            return error
        session.next_step = next_step
        session.used_at_s = commit.used_at_s
        session.records += commit.records
        if commit.snapshot is not None:
            session.snapshots[commit.snapshot.step] = commit.snapshot
        oldest = rules.oldest_step_after(
            commit.keep_from_step, oldest_step=session.oldest_step, snapshot_steps=session.snapshots
        )
        if oldest > session.oldest_step:
            session.oldest_step = oldest
            session.records = [record for record in session.records if record.end_step > oldest]
            session.snapshots = {step: one for step, one in session.snapshots.items() if step >= oldest}
        return None

    def _end(self, claim: Claim, ending: Ending, message: str, now_s: float) -> NtmServeError | None:
        fault = self._fault(claim)
        ended = self._ended.get(claim.session_id)
        if fault is None:
            self._bury(claim.session_id, _Ended(ending, message, now_s, claim.epoch))
        elif ended is not None and ended.epoch == claim.epoch:
            return None
        return fault

    def _bury(self, session_id: str, ended: _Ended) -> None:
        del self._open[session_id]
        self._claims.drop(session_id)
        self._ended[session_id] = ended

    def _stored(self, session_id: str, session: _Session) -> StoredSession:
        snapshots = [session.snapshots[step] for step in sorted(session.snapshots)]
        return rules.whole(
            StoredSession(
                *self._summary(session_id, session),
                epoch=self._claims.newest(session_id).epoch,
                snapshots=snapshots,
                records=list(session.records),
            ),
            session.oldest_step,
        )

    def _summary(self, session_id: str, session: _Session) -> StoredSummary:
        owner = self._claims.newest(session_id).owner
        return StoredSummary(session_id, session.head, session.next_step, session.used_at_s, owner)
