"""Tenants: what each may use, and what it uses. No clock of its own, no task.

Rules of this file: whoever is at a limit is told that it is its own, and when to try again; whoever asks for more than
there ever is, is told that, and not to try again; what is counted is given back by whoever counted it; steps a second
are a bucket that may be overdrawn once, so that a message of more steps than a second's is taken, and paid for before
the next.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ntm_serve.caller import tenant_of
from ntm_serve.errors import LIMIT, LimitReached, TooLarge
from ntm_serve.sizes import OWN_SIZES, Sizes
from ntm_serve.step_model import ModelKey

# When a retry makes sense where nobody knows when there will be room: sessions end when their callers say so, and steps
# are answered soon.
RETRY_SESSIONS_S, RETRY_STEPS_S = 1.0, 0.05
RETRY_MIN_S, RETRY_MAX_S = 0.05, 60.0

# Those who are refused for their steps a second are told to come one after another, so that they do not come all at
# once, which others would feel: as far apart as their steps, over no more than a bucket keeps for them.
SPREAD_MAX_S = 1.0

# What stands before the name of a limit that is a tenant's own.
OF_TENANT = "tenant_"

# At these no step of the tenant is taken, of whatever session, so that whoever sent one is to be read no sooner.
HOLDING = frozenset({"steps_per_s_max", f"{OF_TENANT}steps_per_s_max", f"{OF_TENANT}steps_waiting_max"})

# Accounts that are kept of tenants that use nothing; beyond, those are forgotten that are not named in a file.
IDLE_ACCOUNTS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may use; None is as much as the server has.

    sessions_max, state_bytes_max: of sessions in this server's memory, or coming there to be opened, and their
    states. steps_waiting_max: steps admitted and not yet answered. steps_per_s_max: on the average; a second's may
    come at once. message_bytes_max, steps_per_message_max: of one message. calls_max: calls at once, streams among
    them. call_bytes_max: of the messages of unary calls without their answer; beyond it none is taken. watches_max: who
    look at sessions at once. model_sizes_max: sizes of one model's state that sessions in memory have beside its own.
    stream_age_max_s: then a stream is ended, and may be opened again.
    """

    sessions_max: int | None = None
    state_bytes_max: int | None = None
    steps_waiting_max: int | None = None
    steps_per_s_max: float | None = None
    message_bytes_max: int | None = None
    steps_per_message_max: int | None = None
    calls_max: int | None = None
    call_bytes_max: int | None = None
    watches_max: int | None = None
    model_sizes_max: int | None = None
    stream_age_max_s: float | None = None


NO_LIMITS = TenantLimits()


class Bucket:
    """Tokens that come at a rate, as many as a second's at most; taken together, and overdrawn at most once."""

    __slots__ = ("_at_s", "_level", "_rate")

    def __init__(self, rate: float, now_s: float) -> None:
        """rate: tokens a second, more than 0."""
        self._rate = rate
        self._level = rate
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long until something may be taken; 0 is now."""
        level = self._level + (now_s - self._at_s) * self._rate
        self._level = level = level if level < self._rate else self._rate
        self._at_s = now_s
        return 0.0 if level > 0 else -level / self._rate

    def take(self, count: int) -> None:
        """After `wait_s` said 0."""
        self._level -= count


class Account:
    """What one tenant uses, or all of them together: whoever admits and answers steps counts them here."""

    __slots__ = (
        "_bounding", "_bucket", "_clock", "_held_until_s", "_sizes", "_steps_most", "_turn_s", "call_bytes", "calls",
        "coming", "limits", "named", "rejected", "sessions", "sessions_by_model", "state_bytes", "steps",
        "steps_waiting", "tenant", "total", "watches",
    )  # fmt: skip

    def __init__(
        self,
        tenant: str,
        limits: TenantLimits,
        *,
        clock: Callable[[], float],
        total: "Account | None" = None,
        named: bool = False,
    ) -> None:
        """total: of all tenants. named: whether it stands in the file of tenants."""
        self.tenant = tenant
        self.total = total
        self.named = named
        self._clock = clock
        self.sessions = self.state_bytes = self.steps = self.steps_waiting = 0
        self.calls = self.call_bytes = self.watches = 0
        self.sessions_by_model: Counter[ModelKey] = Counter()
        # By size, where it is not the model's own: sessions, and those that are being made.
        self._sizes: Counter[tuple[ModelKey, Sizes]] = Counter()
        # Sessions that are being made, and their states' bytes.
        self.coming = Counter(sessions=0, state_bytes=0)
        self.rejected: Counter[str] = Counter()
        self.renew(limits)

    def renew(self, limits: TenantLimits) -> None:
        """These hold from now on; what was told by those before does not."""
        self.limits = limits
        self._held_until_s = 0.0
        # When the next who is refused is told to come.
        self._turn_s = 0.0
        rate = limits.steps_per_s_max
        self._bucket = None if rate is None else Bucket(rate, self._clock())
        self._steps_most = float("inf") if limits.steps_waiting_max is None else limits.steps_waiting_max
        # Whose limits a step is held against: looked for here, as it is on the path of every step.
        bounds = [one for one in self._both() if one._bucket is not None or one.limits.steps_waiting_max is not None]
        self._bounding = tuple(bounds)

    @property
    def held_s(self) -> float:
        """For how long steps that come now would be refused, as those before were."""
        return max(0.0, self._held_until_s - self._clock())

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it but what a second's tokens are, and counts since the start."""
        used = (
            self.sessions or self.steps_waiting or self.coming["sessions"] or self._sizes or self.calls or self.watches
        )
        owes = self._bucket is not None and self._bucket.wait_s(self._clock()) > 0
        return not (used or owes or self.named)

    def expect_session(self, state_bytes: int) -> None:
        """Refuse a session more. Raises LimitReached, and TooLarge for a state that is never taken."""
        limits, coming = self.limits, self.coming
        sessions, held = self.sessions + coming["sessions"], self.state_bytes + coming["state_bytes"]
        if limits.sessions_max is not None and sessions >= limits.sessions_max:
            self.rejected["sessions"] += 1
            what = f"expected at most {limits.sessions_max} sessions in memory, got {sessions} and 1 more"
            raise self._refusal("sessions_max", what, RETRY_SESSIONS_S)
        if limits.state_bytes_max is not None and held + state_bytes > limits.state_bytes_max:
            self.rejected["state_bytes"] += 1
            most = limits.state_bytes_max
            if state_bytes > most:
                wrong = (
                    f"{self._name}: expected at most {most} bytes of state in memory, got a session of {state_bytes}"
                )
                raise TooLarge.beyond(self._limit("state_bytes_max"), wrong, expected=most, actual=state_bytes)
            what = f"expected at most {most} bytes of state in memory, got {held} and {state_bytes} more"
            raise self._refusal("state_bytes_max", what, RETRY_SESSIONS_S)
        if self.total is not None:
            self.total.expect_session(state_bytes)

    def expect_steps(self, steps: int) -> None:
        """Refuse steps that would be too many, or too soon; those that are not refused are paid for. Raises
        LimitReached, and TooLarge where waiting does not help.
        """
        bounding = self._bounding
        if not bounding:
            return
        now_s = self._clock()
        for one in bounding:
            if one.steps_waiting + steps > one._steps_most or (one._bucket is not None and one._bucket.wait_s(now_s)):
                one._expect_ever(steps)
                wait_s = 0.0 if one._bucket is None else one._bucket.wait_s(now_s)
                self._held_until_s = now_s + min(max(wait_s, RETRY_STEPS_S), RETRY_MAX_S)
                raise one._steps_refusal(steps, now_s)
        for one in bounding:
            if one._bucket is not None:
                one._bucket.take(steps)

    def pay(self, steps: int) -> None:
        """Pay for steps that are run again for this tenant, and wait in nobody's way. Raises LimitReached."""
        if not steps:
            return
        paying = [one for one in self._bounding if one._bucket is not None]
        now_s = self._clock()
        for one in paying:
            if one._bucket is not None and one._bucket.wait_s(now_s):
                raise one._rate_refusal(steps, now_s)
        for one in paying:
            if one._bucket is not None:
                one._bucket.take(steps)

    def begin_call(self) -> None:
        """A call of this tenant has begun. Raises LimitReached."""
        self._expect_one_more("calls", self.calls, self.limits.calls_max, RETRY_SESSIONS_S)
        self.calls += 1

    def end_call(self, message_bytes: int) -> None:
        """It is over. message_bytes: that were taken of it."""
        self.calls -= 1
        for one in self._both():
            one.call_bytes -= message_bytes

    def take_message(self, message_bytes: int) -> None:
        """The message of a call came that waits with it for its answer. Raises LimitReached."""
        for one in self._both():
            most = one.limits.call_bytes_max
            if most is not None and one.call_bytes >= most:
                one.rejected["call_bytes"] += 1
                what = f"expected less than {most} bytes of calls without their answer, got {one.call_bytes}"
                raise one._refusal("call_bytes_max", what, RETRY_STEPS_S)
        for one in self._both():
            one.call_bytes += message_bytes

    def begin_watch(self) -> None:
        """This tenant looks at a session. Raises LimitReached."""
        self._expect_one_more("watches", self.watches, self.limits.watches_max, RETRY_SESSIONS_S)
        self.watches += 1

    def end_watch(self) -> None:
        """It does not any more."""
        self.watches -= 1

    @contextmanager
    def making(self, model: ModelKey, sizes: Sizes) -> Iterator[None]:
        """A session of these sizes is being made until the block is left. Raises LimitReached."""
        most, mine = self.limits.model_sizes_max, (model, sizes)
        if sizes and most is not None and mine not in self._sizes:
            there = sum(of == model for of, _ in self._sizes)
            if there >= most:
                self.rejected["sizes"] += 1
                what = f"expected at most {most} sizes beside its own of model {model}, got {there} and {dict(sizes)}"
                raise self._refusal("model_sizes_max", what, RETRY_SESSIONS_S)
        self._count_size(model, sizes, 1)
        try:
            yield
        finally:
            self._count_size(model, sizes, -1)

    def enter(self, model: ModelKey, state_bytes: int, sizes: Sizes = OWN_SIZES) -> None:
        """A session of this tenant is in memory."""
        self._count_size(model, sizes, 1)
        for one in self._both():
            one.sessions += 1
            one.state_bytes += state_bytes
            one.sessions_by_model[model] += 1

    def leave(self, model: ModelKey, state_bytes: int, sizes: Sizes = OWN_SIZES) -> None:
        """It is not any more."""
        self._count_size(model, sizes, -1)
        for one in self._both():
            one.sessions -= 1
            one.state_bytes -= state_bytes
            one.sessions_by_model[model] -= 1

    def come(self, sessions: int, state_bytes: int) -> None:
        """So many more, or fewer, are being made."""
        for one in self._both():
            one.coming["sessions"] += sessions
            one.coming["state_bytes"] += state_bytes

    def admit(self, steps: int) -> None:
        """Steps of this tenant wait for their answer."""
        self.steps_waiting += steps
        if self.total is not None:
            self.total.steps_waiting += steps

    def settle(self, steps: int, *, answered: bool) -> None:
        """They do not any more. answered: with their outputs."""
        self.steps_waiting -= steps
        if self.total is not None:
            self.total.steps_waiting -= steps
        if answered:
            self.steps += steps

    def _both(self) -> tuple["Account", ...]:
        return (self,) if self.total is None else (self, self.total)

    def _expect_ever(self, steps: int) -> None:
        most = self.limits.steps_waiting_max
        if most is not None and steps > most:
            self.rejected["steps_waiting"] += 1
            wrong = f"inputs: expected at most {most} steps, as many of {self._name} as may wait, got {steps}"
            raise TooLarge.beyond(self._limit("steps_waiting_max"), wrong, expected=most, actual=steps)

    def _steps_refusal(self, steps: int, now_s: float) -> LimitReached:
        most = self.limits.steps_waiting_max
        if most is not None and self.steps_waiting + steps > most:
            self.rejected["steps_waiting"] += 1
            what = f"expected at most {most} steps waiting, got {self.steps_waiting} and {steps} more"
            return self._refusal("steps_waiting_max", what, RETRY_STEPS_S)
        return self._rate_refusal(steps, now_s)

    def _rate_refusal(self, steps: int, now_s: float) -> LimitReached:
        bucket, rate = self._bucket, self.limits.steps_per_s_max
        assert bucket is not None, "there is no other limit"
        assert rate is not None, "there is a bucket"
        self.rejected["steps_per_s"] += 1
        first_s = now_s + max(bucket.wait_s(now_s), RETRY_MIN_S)
        turn_s = max(self._turn_s, first_s)
        self._turn_s = min(turn_s + steps / rate, first_s + SPREAD_MAX_S)
        what = f"expected at most {rate:g} steps a second"
        return self._refusal("steps_per_s_max", what, min(turn_s - now_s, RETRY_MAX_S))

    def _expect_one_more(self, what: str, there: int, most: int | None, retry_after_s: float) -> None:
        if most is not None and there >= most:
            self.rejected[what] += 1
            raise self._refusal(f"{what}_max", f"expected at most {most} {what} at once, got 1 more", retry_after_s)

    def _count_size(self, model: ModelKey, sizes: Sizes, count: int) -> None:
        if sizes:
            self._sizes[model, sizes] += count
            if not self._sizes[model, sizes]:
                del self._sizes[model, sizes]

    @property
    def _name(self) -> str:
        return f"tenant {self.tenant}" if self.tenant else "server"

    def _refusal(self, limit: str, what: str, retry_after_s: float) -> LimitReached:
        name = self._limit(limit)
        return LimitReached(f"{self._name}: {what} ({name})", retry_after_s=retry_after_s, fields={LIMIT: name})

    def _limit(self, name: str) -> str:
        """A limit's name as refusals have it."""
        return name if self.total is None else OF_TENANT + name


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """What a tenant uses, and since the start: steps that were answered, and refusals by the limit."""

    sessions: int
    state_bytes: int
    steps_waiting: int
    steps: int
    rejected: Mapping[str, int]


class Accounts:
    """The accounts of all tenants."""

    def __init__(self, *, every: TenantLimits, total: TenantLimits, clock: Callable[[], float]) -> None:
        """every: of each tenant that is not named. total: of all together."""
        self._every = every
        self._clock = clock
        self._named: Mapping[str, TenantLimits] = {}
        self._total = Account("", total, clock=clock)
        self._accounts: dict[str, Account] = {}

    def of(self, tenant: str) -> Account:
        """A tenant's account; made where there is none."""
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= IDLE_ACCOUNTS_MAX:
                self._forget_idle()
            limits, named = self._named.get(tenant, self._every), tenant in self._named
            account = Account(tenant, limits, clock=self._clock, total=self._total, named=named)
            self._accounts[tenant] = account
        return account

    def of_key(self, key: str) -> Account:
        """The account that a session of that key counts in."""
        return self.of(tenant_of(key))

    def renew(self, named: Mapping[str, TenantLimits]) -> None:
        """These tenants have limits of their own from now on."""
        self._named = named
        for tenant, account in self._accounts.items():
            account.named = tenant in named
            limits = named.get(tenant, self._every)
            if limits != account.limits:
                account.renew(limits)

    def statistics(self) -> Mapping[str, TenantStatistics]:
        """By tenant, those that are named first."""
        accounts = sorted(self._accounts.values(), key=lambda one: (not one.named, one.tenant))
        return {
            one.tenant: TenantStatistics(
                one.sessions, one.state_bytes, one.steps_waiting, one.steps, dict(one.rejected)
            )
            for one in accounts
        }

    def _forget_idle(self) -> None:
        for tenant in [tenant for tenant, account in self._accounts.items() if account.is_idle]:
            del self._accounts[tenant]
