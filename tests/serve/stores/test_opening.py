"""Which store a setting names, and how it is shown."""

import pytest

from ntm_serve.stores.opening import without_password


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("sqlite:a/b.db", "sqlite:a/b.db"),
        ("redis://:secret@host:6379/0", "redis://host:6379/0"),
        ("rediss://me:sec@ret@host:1?ssl_ca_certs=x", "rediss://host:1"),
        ("unix:///run/redis?password=secret", "unix:///run/redis"),
        ("redis://host", "redis://host"),
    ],
)
def test_a_password_is_not_shown(where, shown):
    assert without_password(where) == shown
