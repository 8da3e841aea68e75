"""The redis store over TLS, with a password: what a redis somewhere else needs."""

import subprocess

import pytest

from ntm_serve.errors import SettingsFault, StoreUnavailable
from ntm_serve.store import Commit, Head, LogRecord
from ntm_serve.stores.redis import RedisStore

from .redis_server import QUOTED, RedisServer, free_ports

HEAD = Head("copy", "1", "digest", "process", 0.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key, and a certificate for 127.0.0.1 that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


@pytest.fixture(scope="module")
def address(certificate):
    """Of a redis that speaks TLS alone, but for its socket file."""
    key, own = certificate
    [port] = free_ports(1)
    server = RedisServer(
        "--tls-port", str(port), "--tls-cert-file", str(own), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(own), "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.remove()


def test_sessions_are_kept_over_tls(address, certificate):
    store = RedisStore(f"rediss://:{QUOTED}@{address}/0?ssl_ca_certs={certificate[1]}")
    claim = store.create("s", HEAD, owner="a", now_s=0.0)
    assert list(store.commit([Commit(claim, 0.0, [LogRecord(0, 2, b"inputs")])])) == [None]
    assert store.read("s").next_step == 2
    store.close()


def test_a_server_whose_certificate_nobody_knows_is_not_spoken_to(address):
    with pytest.raises((StoreUnavailable, SettingsFault), match="certificate") as refused:
        RedisStore(f"rediss://:{QUOTED}@{address}/0")
    assert QUOTED not in str(refused.value)


def test_a_server_that_speaks_tls_alone_is_not_spoken_to_without(address):
    with pytest.raises(StoreUnavailable, match=address):
        RedisStore(f"redis://:{QUOTED}@{address}/0")
