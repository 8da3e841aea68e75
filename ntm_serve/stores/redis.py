"""A store in redis or valkey, one server or a cluster, for any number of processes.

Rules of this file:
- What counts is in a session's own three keys, and is written by scripts that check the claim (`redis_scripts`).
- Leases are keys that redis lets go when they are over. So there is one clock, redis's; replicas whose clocks
  differ do not take each other's sessions. A lease only tells when a session may be asked for: what a late
  owner writes is refused by its epoch.
- The names of sessions are in indexes, which may be wrong, and are asked for candidates only (`redis_indexes`).
- `totals` is what commits have added up to; each process tells its share with its next call, so a process that
  is killed leaves them off by that.
- Everything may be sent twice (`redis_link` does so), but for `wanted`: a word may get lost. And what was sent
  once may come late, so commits and restarts are numbered.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from ntm_serve.errors import NtmServeError, SettingsFault, StoreConflict, StoreDamaged, StoreUnavailable
from ntm_serve.store import (
    Claim,
    Commit,
    Ending,
    Head,
    Snapshot,
    Store,
    StoredSession,
    StoredSummary,
    StoreStatistics,
)
from ntm_serve.stores import redis_scripts as scripts
from ntm_serve.stores import rules
from ntm_serve.stores.redis_indexes import RedisIndexes, session_key
from ntm_serve.stores.redis_link import Command, RedisLink, script_command
from ntm_serve.stores.redis_scripts import Script
from ntm_serve.stores.redis_values import head_to_bytes, readable, record_from_bytes, record_to_bytes, summary

log = structlog.get_logger()

PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# Names read from an index at once.
PAGE = 500
# Words that nobody came for are let go: whoever wants a session asks again.
WANTED_LIFE_S = 600
WANTED_AT_ONCE = 1000
# A claim that is taken by others while we look whether its owner lives: so often, then it is theirs.
CLAIM_ATTEMPTS = 3


class RedisStore(Store):
    """The contract of `Store` in the redis at `url` (redis://, rediss://, unix://), under keys that begin with
    `prefix`. Stores that share both share their sessions.
    """

    def __init__(self, url: str, *, prefix: str = "ntm-serve", timeout_s: float = 2.0) -> None:
        """timeout_s: for an answer of redis. Raises SettingsFault, StoreUnavailable."""
        if not PREFIX.fullmatch(prefix):
            raise SettingsFault(f"store: expected a prefix of 1 to 64 of A-Z a-z 0-9 . _ : -, got {prefix!r}")
        self._prefix = prefix
        self._link = RedisLink(url, timeout_s=timeout_s)
        self._indexes = RedisIndexes(self._link, prefix)
        # records, snapshots and bytes that `totals` was not told of yet.
        self._untold = [0, 0, 0]
        self._may_fsync = False
        self._calls = itertools.count(1)

    @property
    def is_local(self) -> bool:
        return False

    def keep_alive(self, owner: str, *, now_s: float, lease_s: float) -> None:
        lease_ms = int(lease_s * 1000)
        self._link.run(("SET", self._lease(owner), 1, "PX", lease_ms) if lease_ms > 0 else ("DEL", self._lease(owner)))

    def create(self, session_id: str, head: Head, *, owner: str, now_s: float, start: Snapshot | None = None) -> Claim:
        indexed = self._indexes.put_in(session_id, now_s)
        command = self._script(scripts.CREATE, session_id, owner, head_to_bytes(head), now_s, *(start or (0,)))
        [answer] = self._run([command], before=indexed)
        if answer[0] != b"KEPT":
            raise self._refusal(session_id, answer)
        # Once more: whoever ended the name's earlier life may have taken it out in between.
        self._link.run(*indexed, self._indexes.not_ended(session_id))
        return Claim(session_id, owner, int(answer[4]))

    def restart(self, claim: Claim, start: Snapshot, *, used_at_s: float) -> None:
        session_id, owner, epoch = claim
        command = self._script(scripts.RESTART, session_id, owner, epoch, next(self._calls), used_at_s, *start)
        [answer] = self._run([command])
        if answer[0] != b"KEPT":
            raise self._refusal(session_id, answer)

    def claim(self, session_id: str, *, owner: str, now_s: float) -> tuple[Claim, StoredSession]:
        [claimed] = self.claim_all([session_id], owner=owner, now_s=now_s)
        if isinstance(claimed, NtmServeError):
            raise claimed
        return claimed

    def claim_all(
        self, session_ids: Sequence[str], *, owner: str, now_s: float
    ) -> Sequence[tuple[Claim, StoredSession] | NtmServeError]:
        claimed: dict[str, tuple[Claim, StoredSession] | NtmServeError] = {}
        # Those to ask for, each with an epoch whose owner's lease is over, or "".
        asking: dict[str, bytes] = dict.fromkeys(session_ids, b"")
        for _ in range(CLAIM_ATTEMPTS):
            answers = self._link.ask(*(self._script(scripts.CLAIM, one, owner, over) for one, over in asking.items()))
            owned: dict[str, Sequence[Any]] = {}
            for session_id, answer in zip(asking, answers, strict=True):
                if not isinstance(answer, NtmServeError) and answer[0] == b"OWNED":
                    owned[session_id] = answer
                    claimed[session_id] = self._refusal(session_id, answer)
                else:
                    claimed[session_id] = self._claimed(session_id, owner, answer)
            alive = self._want({one: answer[1].decode() for one, answer in owned.items()})
            asking = {one: answer[2] for one, answer in owned.items() if answer[1].decode() not in alive}
            if not asking:
                break
        found = [one for one in claimed.values() if not isinstance(one, NtmServeError)]
        self._link.run(*(it for _, one in found for it in self._indexes.put_in(one.session_id, one.used_at_s)))
        return [claimed[session_id] for session_id in session_ids]

    def _claimed(self, session_id: str, owner: str, answer: Any) -> tuple[Claim, StoredSession] | NtmServeError:
        if isinstance(answer, StoreUnavailable):  # Nothing is known of any of them.
            raise answer
        if isinstance(answer, NtmServeError):
            return answer
        if answer[0] != b"KEPT":
            return self._refusal(session_id, answer)
        try:
            session = self._stored(session_id, answer)
        except StoreDamaged as damage:
            self._link.run(self._script(scripts.RELEASE, session_id, owner, answer[2]))
            return damage
        return Claim(session_id, owner, session.epoch), session

    def _want(self, holders: Mapping[str, str]) -> set[str]:
        """Leave word to those who have sessions that these are wanted; those of them that live."""
        named = sorted(set(holders.values()))
        wanted = {self._wanted(one): [it for it, holder in holders.items() if holder == one] for one in named}
        answers = self._link.run(
            *(("EXISTS", self._lease(one)) for one in named),
            *(("SADD", key, *ids) for key, ids in wanted.items()),
            *(("EXPIRE", key, WANTED_LIFE_S) for key in wanted),
        )
        return {one for one, lease in zip(named, answers, strict=False) if lease}

    def wanted(self, owner: str) -> Sequence[str]:
        [words] = self._link.run(("SPOP", self._wanted(owner), WANTED_AT_ONCE))
        return [word.decode() for word in words]

    def commit(self, commits: Sequence[Commit]) -> Sequence[NtmServeError | None]:
        errors: list[NtmServeError | None] = [_fault_of_records(commit) for commit in commits]
        sound = [place for place, error in enumerate(errors) if error is None]
        if not sound:
            return errors
        answers = self._run(
            [self._commit_command(commits[place]) for place in sound],
            self._indexes.used({commits[place].claim.session_id: commits[place].used_at_s for place in sound}),
        )
        for place, answer in zip(sound, answers, strict=True):
            errors[place] = self._outcome(commits[place].claim.session_id, answer, commits[place])
        self._indexes.correct([commits[place].claim.session_id for place in sound if errors[place] is not None])
        return errors

    def sync(self) -> None:
        """A redis that keeps for certain what it has answered has it on the disk by then."""
        if not self._may_fsync:
            self._link.expect_fsync()
            self._may_fsync = True

    def tidy(self) -> None:
        """Redis does."""

    def release(self, claims: Sequence[Claim]) -> None:
        # Words go too: were a session to come back, it would go at once for one that has had it since.
        self._link.run(
            *(self._script(scripts.RELEASE, claim.session_id, claim.owner, claim.epoch) for claim in claims),
            *(("SREM", self._wanted(claim.owner), claim.session_id) for claim in claims),
        )

    def end(
        self, claims: Sequence[Claim], ending: Ending, message: str, *, now_s: float
    ) -> Sequence[NtmServeError | None]:
        if not claims:
            return []
        answers = self._run(
            [
                self._script(scripts.END, claim.session_id, claim.owner, claim.epoch, ending.value, message, now_s)
                for claim in claims
            ]
        )
        errors = [self._outcome(claim.session_id, answer) for claim, answer in zip(claims, answers, strict=True)]
        self._indexes.take_out(
            {claim.session_id: answer[4] for claim, answer in zip(claims, answers, strict=True) if answer[0] == b"KEPT"}
        )
        return errors

    def read(self, session_id: str) -> StoredSession:
        [answer] = self._link.run(self._script(scripts.READ, session_id))
        if answer[0] != b"KEPT":
            raise self._refusal(session_id, answer)
        return self._stored(session_id, answer)

    def list(self, *, after: str, limit: int, model: str = "") -> Sequence[StoredSummary]:
        found: list[StoredSummary] = []
        page_size = PAGE if model else min(PAGE, limit)
        while len(found) < limit:
            ids = self._indexes.ids_after(after, page_size)
            if not ids:
                break
            rows = self._link.run(
                *(("HMGET", session_key(self._prefix, one), "head", "next_step", "used_at_s", "owner") for one in ids)
            )
            for session_id, row in zip(ids, rows, strict=True):
                # A name without a head has ended, or is being made.
                if row[0] is not None:
                    try:
                        line = summary(session_id, *row)
                    except StoreDamaged as damage:  # Its own: whoever asks for it is told.
                        log.warning("a session is left out of the list", session=session_id, fault=damage.message)
                        continue
                    if model in ("", line.head.model):
                        found.append(line)
            after = ids[-1]
        return found[:limit]

    def expire(self, *, unused_since_s: float, message: str, now_s: float, limit: int) -> Sequence[str]:
        expired: list[str] = []
        passed_over = 0
        while len(expired) < limit:
            ids = self._indexes.unused_since(unused_since_s, passed_over, min(PAGE, limit - len(expired)))
            if not ids:
                break
            words = self._expire(ids, unused_since_s, message, now_s)
            # Those that cannot end now stay in the index, and in front.
            passed_over += sum(word in _STAYS for word in words)
            expired += [session_id for session_id, word in zip(ids, words, strict=True) if word == b"KEPT"]
        return expired

    def forget(self, *, ended_before_s: float) -> int:
        forgotten = 0
        while True:
            ids = self._indexes.ended_before(ended_before_s, PAGE)
            if not ids:
                return forgotten
            *answers, _ = self._link.run(
                *(self._script(scripts.FORGET, session_id, ended_before_s) for session_id in ids),
                self._indexes.not_ended(*ids),
            )
            forgotten += sum(answer[0] == b"KEPT" for answer in answers)

    def statistics(self) -> StoreStatistics:
        self._run([])
        sessions, ended, totals = self._link.run(*self._indexes.counts(), ("HMGET", f"{self._prefix}:totals", *_TOTALS))
        records, snapshots, payload_bytes = (max(0, int(one or 0)) for one in totals)
        return StoreStatistics(sessions, ended, records, snapshots, payload_bytes, self._link.stored_bytes())

    def close(self) -> None:
        # Where redis is not there any more, only the totals stay off.
        with suppress(NtmServeError):
            self._run([])
        self._link.close()

    def _lease(self, owner: str) -> str:
        return f"{self._prefix}:lease:{owner}"

    def _wanted(self, owner: str) -> str:
        return f"{self._prefix}:wanted:{owner}"

    def _script(self, script: Script, session_id: str, *arguments: Any) -> Command:
        keys = [session_key(self._prefix, session_id, part) for part in ("session", "records", "snapshots")]
        return script_command(script, keys, arguments)

    def _run(
        self, session_commands: Sequence[Command], *more: Command, before: Sequence[Command] = ()
    ) -> Sequence[Any]:
        """Answers of scripts that tell by how much the store grew, DAMAGED where one stumbled over what it found.
        Before and after them more is run, and totals are told on the way.
        """
        told, self._untold = self._untold, [0] * len(_TOTALS)
        answers = self._link.ask(
            *before,
            *session_commands,
            *more,
            *(("HINCRBY", f"{self._prefix}:totals", name, by) for name, by in zip(_TOTALS, told, strict=True) if by),
        )
        faults = [one for one in answers if isinstance(one, NtmServeError) and not isinstance(one, StoreDamaged)]
        words: list[Any] = []
        for answer in answers[len(before) :][: len(session_commands)]:
            if isinstance(answer, NtmServeError):
                words.append((b"DAMAGED", answer.message.encode()))
            else:
                words.append(answer)
                if answer[0] == b"KEPT":
                    self._untold = [total + by for total, by in zip(self._untold, answer[1:4], strict=True)]
        if faults:
            raise faults[0]
        return words

    def _commit_command(self, commit: Commit) -> Command:
        records, snapshot = commit.records, commit.snapshot
        return self._script(
            scripts.COMMIT,
            commit.claim.session_id,
            commit.claim.owner,
            commit.claim.epoch,
            next(self._calls),
            commit.used_at_s,
            records[0].first_step if records else "",
            records[-1].end_step if records else "",
            "" if commit.keep_from_step is None else commit.keep_from_step,
            "" if snapshot is None else snapshot.step,
            b"" if snapshot is None else snapshot.payload,
            sum(len(record.payload) for record in records),
            *(record_to_bytes(record) for record in records),
        )

    def _outcome(self, session_id: str, answer: Sequence[Any], commit: Commit | None = None) -> NtmServeError | None:
        if answer[0] == b"KEPT":
            return None
        if commit is not None and answer[0] == b"CONFLICT":
            return _conflict(commit, next_step=int(answer[1]), oldest_step=int(answer[2]))
        return self._refusal(session_id, answer)

    def _refusal(self, session_id: str, answer: Sequence[Any]) -> NtmServeError:
        word = answer[0].decode()
        if word == "UNKNOWN":
            return rules.unknown(session_id)
        if word == "EXISTS":
            return rules.exists(session_id)
        if word == "OWNED":
            return rules.owned_elsewhere(session_id, answer[1].decode())
        said = (answer[1] or b"").decode()
        return (
            StoreDamaged(f"session {session_id}: {said}") if word == "DAMAGED" else rules.ended(session_id, word, said)
        )

    def _stored(self, session_id: str, answer: Sequence[Any]) -> StoredSession:
        _, owner, epoch, head, next_step, oldest_step, used_at_s, snapshot_bytes, snapshots, records = answer
        with readable(session_id):
            found_bytes = sum(map(len, snapshots[1::2]))
            if found_bytes != int(snapshot_bytes):
                raise StoreDamaged(
                    f"session {session_id}: expected snapshots of {int(snapshot_bytes)} bytes, got {found_bytes}"
                )
            return rules.whole(
                StoredSession(
                    *summary(session_id, head, next_step, used_at_s, owner),
                    epoch=int(epoch) if owner else 0,
                    snapshots=sorted(
                        Snapshot(int(step), payload)
                        for step, payload in zip(snapshots[::2], snapshots[1::2], strict=True)
                    ),
                    records=[record_from_bytes(record) for record in records],
                ),
                int(oldest_step),
            )

    def _alive(self, owners: Iterable[str]) -> dict[str, bool]:
        """Which of them have a lease; nobody has none."""
        named = sorted({owner for owner in owners if owner})
        leases = self._link.run(*(("EXISTS", self._lease(owner)) for owner in named)) if named else []
        return {"": False} | {owner: bool(lease) for owner, lease in zip(named, leases, strict=True)}

    def _expire(self, ids: Sequence[str], unused_since_s: float, message: str, now_s: float) -> Sequence[bytes]:
        """What became of each: KEPT is ended now, OWNED is somebody's, of those that are not DAMAGED either the
        index was wrong.
        """
        rows = self._link.run(*(("HMGET", session_key(self._prefix, one), "owner", "epoch", "ending") for one in ids))
        owners = ["" if ending else (owner or b"").decode() for owner, _, ending in rows]
        alive = self._alive(owners)
        words = [b"OWNED"] * len(ids)
        free = [place for place, owner in enumerate(owners) if not alive[owner]]
        answers = self._run(
            [
                self._script(
                    scripts.EXPIRE, ids[place], owners[place], rows[place][1] or "", unused_since_s, message, now_s
                )
                for place in free
            ]
        )
        for place, answer in zip(free, answers, strict=True):
            words[place] = answer[0]
            if answer[0] == b"USED":
                self._link.run(self._indexes.used({ids[place]: answer[1]}))
        gone = [one for one, word in zip(ids, words, strict=True) if word not in (*_STAYS, b"USED")]
        self._indexes.take_out(dict.fromkeys(gone, now_s))
        return words


_STAYS = (b"OWNED", b"DAMAGED")
_TOTALS = ("records", "snapshots", "payload_bytes")


def _fault_of_records(commit: Commit) -> StoreConflict | None:
    """Where its records do not follow each other; whether they follow the session's, redis tells."""
    try:
        rules.end_of_records(commit, commit.records[0].first_step if commit.records else 0)
    except StoreConflict as conflict:
        return conflict
    return None


def _conflict(commit: Commit, *, next_step: int, oldest_step: int) -> NtmServeError:
    try:
        rules.next_step_after(commit, next_step=next_step, oldest_step=oldest_step)
    except StoreConflict as conflict:
        return conflict
    raise StoreDamaged(f"session {commit.claim.session_id}: redis refused a commit that follows its steps")
