"""What tenants may use: buckets and accounts, by a clock that is moved by hand."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_serve.auth.limits import read_tenants
from ntm_serve.caller import SESSION_KEY, SESSION_NAME, as_told, key_of, keys_of, parted
from ntm_serve.errors import InvalidInput, LimitReached, SessionUnknown, SettingsFault, TooLarge
from ntm_serve.step_model import ModelKey
from ntm_serve.tenants import IDLE_ACCOUNTS_MAX, NO_LIMITS, Accounts, Bucket, TenantLimits
from ntm_serve.testing import ManualClock

MODEL = ModelKey("running-sum", "1")


def accounts(every=NO_LIMITS, total=NO_LIMITS, clock=None):
    return Accounts(every=every, total=total, clock=clock or ManualClock())


@given(
    st.floats(0.5, 1e4),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5000)), min_size=1, max_size=60),
)
def test_a_bucket_gives_no_more_than_its_rate_and_a_second_and_one_message(rate, asked):
    now_s, bucket, given_out, largest = 0.0, Bucket(rate, 0.0), 0, 0
    for passed_s, count in asked:
        now_s += passed_s
        if bucket.wait_s(now_s) == 0.0:
            bucket.take(count)
            given_out += count
            largest = max(largest, count)
    assert given_out <= rate * (now_s + 1) + largest


@given(st.floats(0.5, 1e4), st.integers(1, 5000))
def test_a_bucket_says_when_there_will_be_something_again(rate, count):
    bucket = Bucket(rate, 0.0)
    bucket.take(count)
    wait_s = bucket.wait_s(0.0)
    if wait_s:
        assert bucket.wait_s(wait_s * 0.99) > 0
        assert bucket.wait_s(wait_s * 1.01 + 1e-6) == 0.0


def test_steps_a_second_are_refused_until_they_are_paid_for():
    clock = ManualClock()
    account = accounts(TenantLimits(steps_per_s_max=10), clock=clock).of("acme")
    account.expect_steps(30)
    with pytest.raises(LimitReached, match="tenant acme: expected at most 10 steps a second") as refused:
        account.expect_steps(1)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    assert refused.value.fields == {"limit": "tenant_steps_per_s_max"}
    clock.advance(2.01)
    account.expect_steps(1)
    assert account.rejected == {"steps_per_s": 1}


def test_those_who_are_refused_are_told_to_come_one_after_another():
    clock = ManualClock()
    account = accounts(TenantLimits(steps_per_s_max=10), clock=clock).of("acme")

    def told(steps):
        with pytest.raises(LimitReached) as refused:
            account.expect_steps(steps)
        return refused.value.retry_after_s

    account.expect_steps(20)
    assert [told(1), told(3), told(2), told(1)] == pytest.approx([1.0, 1.1, 1.4, 1.6])
    # Whoever does not listen makes nobody wait for more than there is for a second.
    assert max(told(5) for _ in range(100)) == pytest.approx(2.0)
    clock.advance(1.01)
    account.expect_steps(20)
    assert told(1) == pytest.approx(2.0, abs=0.02)
    clock.advance(60)
    account.expect_steps(11)
    assert told(1) == pytest.approx(0.1)


def test_whoever_has_other_limits_is_held_by_those_before_no_longer():
    mine = accounts(TenantLimits(steps_per_s_max=1))
    account = mine.of("acme")
    account.expect_steps(50)
    with pytest.raises(LimitReached):
        account.expect_steps(1)
    assert account.held_s == pytest.approx(49.0)
    mine.renew({"acme": TenantLimits(steps_per_s_max=1000)})
    assert account.held_s == 0.0
    account.expect_steps(2000)
    with pytest.raises(LimitReached) as refused:
        account.expect_steps(1)
    assert refused.value.retry_after_s == pytest.approx(1.0)


def test_whoever_owes_steps_is_not_forgotten_before_they_are_paid_for():
    clock = ManualClock()
    mine = accounts(TenantLimits(steps_per_s_max=1), clock=clock)
    mine.of("acme").expect_steps(100)
    for number in range(IDLE_ACCOUNTS_MAX):
        mine.of(f"other-{number}")
    with pytest.raises(LimitReached):
        mine.of("acme").expect_steps(1)
    clock.advance(100)
    assert mine.of("acme").is_idle


def test_streams_that_send_without_end_come_spread_and_get_all_that_their_tenant_may():
    """Each of 32 streams sends on at once where it was answered, and is read again when it was told to come."""
    clock = ManualClock()
    account = accounts(TenantLimits(steps_per_s_max=400), clock=clock).of("acme")
    streams, answered, refused, most_at_once, at_once = [(0.0, one) for one in range(32)], 0, 0, 0, []
    while streams[0][0] < 10:
        at_s, one = heapq.heappop(streams)
        clock.advance(at_s - clock.now_s)
        try:
            account.expect_steps(1)
        except LimitReached as told:
            again_s, took = told.retry_after_s, 0
        else:
            again_s, took = 1e-4, 1
        heapq.heappush(streams, (at_s + again_s, one))
        if at_s > 3:
            answered, refused = answered + took, refused + 1 - took
            at_once = [seen_s for seen_s in (*at_once, at_s) if seen_s > at_s - 0.01]
            most_at_once = max(most_at_once, len(at_once))
    assert answered == pytest.approx(7 * 400, rel=0.01)
    assert refused <= answered * 1.05
    assert most_at_once <= 16


def test_steps_that_wait_are_counted_until_they_are_answered():
    mine = accounts(TenantLimits(steps_waiting_max=5))
    account, other = mine.of("acme"), mine.of("other")
    account.expect_steps(5)
    account.admit(5)
    with pytest.raises(LimitReached, match="expected at most 5 steps waiting, got 5 and 1 more"):
        account.expect_steps(1)
    other.expect_steps(5)
    account.settle(5, answered=True)
    account.expect_steps(5)
    assert (account.steps, account.steps_waiting) == (5, 0)


def test_more_steps_than_may_ever_wait_are_not_to_be_tried_again():
    mine = accounts(TenantLimits(steps_waiting_max=5, steps_per_s_max=10), TenantLimits(steps_waiting_max=8))
    account = mine.of("acme")
    account.admit(5)
    with pytest.raises(TooLarge, match="expected at most 5 steps, as many of tenant acme as may wait, got 6") as no:
        account.expect_steps(6)
    assert no.value.fields == {"limit": "tenant_steps_waiting_max", "expected": "5", "actual": "6"}
    assert account.held_s == 0.0
    account.settle(5, answered=True)
    account.expect_steps(5)


def test_steps_that_are_refused_by_one_limit_are_not_paid_for_by_another():
    mine = accounts(TenantLimits(steps_per_s_max=10), TenantLimits(steps_per_s_max=1))
    one, other = mine.of("one"), mine.of("other")
    one.expect_steps(2)
    for _ in range(100):
        with pytest.raises(LimitReached, match="server: expected at most 1 steps a second"):
            other.expect_steps(1)
    assert other._bucket.wait_s(0.0) == 0.0
    assert other._bucket._level == 10


def test_sessions_and_their_bytes_are_counted_also_while_they_come():
    account = accounts(TenantLimits(sessions_max=2, state_bytes_max=100)).of("acme")
    account.expect_session(40)
    account.come(1, 40)
    account.enter(MODEL, 40)
    account.come(-1, -40)
    with pytest.raises(LimitReached, match="expected at most 100 bytes of state in memory, got 40 and 61 more"):
        account.expect_session(61)
    account.come(1, 60)
    with pytest.raises(LimitReached, match="expected at most 2 sessions in memory, got 2 and 1 more"):
        account.expect_session(0)
    account.come(-1, -60)
    account.leave(MODEL, 40)
    account.expect_session(100)
    assert account.is_idle


def test_a_state_that_never_fits_is_not_to_be_tried_again():
    account = accounts(TenantLimits(state_bytes_max=100), TenantLimits(state_bytes_max=500)).of("acme")
    with pytest.raises(TooLarge, match="at most 100 bytes of state in memory, got a session of 101") as no:
        account.expect_session(101)
    assert no.value.fields == {"limit": "tenant_state_bytes_max", "expected": "100", "actual": "101"}
    with pytest.raises(TooLarge) as no:
        accounts(total=TenantLimits(state_bytes_max=500)).of("acme").expect_session(501)
    assert no.value.fields["limit"] == "state_bytes_max"


def test_the_bytes_of_calls_are_taken_until_they_are_too_many_and_given_back():
    mine = accounts(TenantLimits(call_bytes_max=100), TenantLimits(call_bytes_max=250))
    one, other, third = mine.of("one"), mine.of("other"), mine.of("third")
    for account in (one, one, other, other, third):
        account.begin_call()
    for account in (one, other):
        account.take_message(60)
        account.take_message(60)
        with pytest.raises(LimitReached, match="got 120") as refused:
            account.take_message(1)
        assert refused.value.fields == {"limit": "tenant_call_bytes_max"}
    third.take_message(60)
    for _ in range(2):
        with pytest.raises(LimitReached, match="server: expected less than 250 bytes") as refused:
            mine.of("fourth").take_message(1)
        assert refused.value.fields == {"limit": "call_bytes_max"}
    for account in (one, one, other, other, third):
        account.end_call(60)
    one.take_message(1000)
    one.begin_call()
    one.end_call(1000)
    assert (one.call_bytes, other.call_bytes, one.is_idle) == (0, 0, True)


def test_what_a_tenant_has_at_once_of_calls_and_watches_is_bounded():
    mine = accounts(TenantLimits(calls_max=2, watches_max=1))
    account, other = mine.of("acme"), mine.of("other")
    for one in (account, other):
        one.begin_call()
        one.begin_call()
        one.begin_watch()
        with pytest.raises(LimitReached, match="expected at most 2 calls at once"):
            one.begin_call()
        with pytest.raises(LimitReached, match="expected at most 1 watches at once"):
            one.begin_watch()
    assert not account.is_idle
    account.end_call(0)
    account.begin_call()
    account.end_watch()
    account.begin_watch()
    assert account.rejected == {"calls": 1, "watches": 1}


def test_a_size_counts_while_it_is_made_and_while_a_session_has_it():
    account, other = (accounts(TenantLimits(model_sizes_max=1)).of(name) for name in ("acme", "other"))
    small, large = (("slots", 1),), (("slots", 9),)
    with account.making(MODEL, small):
        account.enter(MODEL, 4, small)
        with pytest.raises(LimitReached, match="at most 1 sizes beside its own of model"), account.making(MODEL, large):
            pass
    with account.making(MODEL, small), account.making(MODEL, ()), account.making(ModelKey("another", "1"), large):
        pass
    with pytest.raises(LimitReached), account.making(MODEL, large):
        pass
    with other.making(MODEL, large):
        pass
    # One that comes back has its size, whatever the limit.
    account.enter(MODEL, 4, large)
    account.leave(MODEL, 4, small)
    with account.making(MODEL, large):
        pass
    account.leave(MODEL, 4, large)
    assert account.is_idle
    with account.making(MODEL, small):
        assert not account.is_idle


def test_what_all_may_use_bounds_each():
    mine = accounts(total=TenantLimits(state_bytes_max=100))
    mine.of("one").enter(MODEL, 60)
    with pytest.raises(LimitReached, match="server: expected at most 100 bytes of state in memory, got 60 and 60 more"):
        mine.of("other").expect_session(60)


def test_limits_that_are_renewed_hold_at_once_and_forget_no_use():
    mine = accounts(TenantLimits(sessions_max=1))
    account = mine.of("acme")
    account.enter(MODEL, 1)
    mine.renew({"acme": TenantLimits(sessions_max=2)})
    assert mine.of("acme") is account
    account.expect_session(1)
    mine.renew({})
    with pytest.raises(LimitReached, match="expected at most 1 sessions"):
        account.expect_session(1)


def test_accounts_of_tenants_that_use_nothing_are_forgotten_when_there_are_many():
    mine = accounts()
    mine.renew({"named": NO_LIMITS})
    kept = [mine.of("named"), mine.of("busy")]
    kept[1].enter(MODEL, 1)
    for number in range(3 * IDLE_ACCOUNTS_MAX):
        mine.of(f"t{number}")
    assert len(mine.statistics()) <= IDLE_ACCOUNTS_MAX
    assert [mine.of("named"), mine.of("busy")] == kept
    assert next(iter(mine.statistics())) == "named"


NAMES = st.from_regex(SESSION_NAME, fullmatch=True)
TENANTS = st.sampled_from(["", "a", "ab", "a.b", "acme"])


@given(TENANTS, NAMES, TENANTS, NAMES)
def test_keys_are_of_one_tenant_and_one_name(tenant, name, other_tenant, other_name):
    key = key_of(tenant, name)
    assert parted(key) == (tenant, name)
    assert SESSION_KEY.fullmatch(key)
    assert keys_of(tenant, [name]) == [key]
    assert (key == key_of(other_tenant, other_name)) == ((tenant, name) == (other_tenant, other_name))


@given(TENANTS, st.text(max_size=20), TENANTS, NAMES)
def test_what_is_no_name_finds_no_session(tenant, text, other_tenant, name):
    if SESSION_NAME.fullmatch(text):
        return
    assert keys_of(tenant, [text]) != [key_of(other_tenant, name)]
    with pytest.raises(InvalidInput, match="session id: expected"):
        key_of(tenant, text)


@given(TENANTS, NAMES)
def test_errors_have_the_callers_words(tenant, name):
    error = SessionUnknown(f"session {key_of(tenant, name)}: expected an open one, not '{key_of(tenant, name)}'")
    assert as_told(error, tenant).message == f"session {name}: expected an open one, not '{name}'"
    limit = LimitReached(f"session {key_of(tenant, name)}", retry_after_s=3, fields={"limit": "x"})
    assert (as_told(limit, tenant).retry_after_s, as_told(limit, tenant).fields) == (3, {"limit": "x"})


def test_a_file_of_tenants_says_what_differs(tmp_path):
    file = tmp_path / "tenants.toml"
    file.write_text("[tenants.acme]\nsessions_max = 3\nsteps_per_s_max = 0\n[tenants.'b.c']\nstream_age_max_s = 1.5\n")
    every = TenantLimits(sessions_max=1, steps_per_s_max=10)
    assert read_tenants(file, every) == {
        "acme": TenantLimits(sessions_max=3),
        "b.c": TenantLimits(sessions_max=1, steps_per_s_max=10, stream_age_max_s=1.5),
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[tenants", "expected TOML"),
        ("[tenant.acme]", r"expected \[tenants.NAME\] and nothing else"),
        ("[tenants.acme]\nsession_max = 3", "tenants.acme: expected some of sessions_max"),
        ("[tenants.acme]\nsessions_max = -3", "sessions_max: expected a number of at least 0, got -3"),
        ("[tenants.acme]\nsessions_max = 1.5", "sessions_max: expected a number"),
        ("[tenants.acme]\nsessions_max = true", "sessions_max: expected a number"),
        ("[tenants.acme]\nsteps_per_s_max = inf", "steps_per_s_max: expected a number"),
        ("[tenants.'a|b']\n", "expected a name of 1 to 64"),
        ("tenants = 3", r"expected \[tenants.NAME\]"),
    ],
)
def test_a_file_of_tenants_with_a_fault_names_it(tmp_path, text, fault):
    file = tmp_path / "tenants.toml"
    file.write_text(text)
    with pytest.raises(SettingsFault, match=fault):
        read_tenants(file, NO_LIMITS)
