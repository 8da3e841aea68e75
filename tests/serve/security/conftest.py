"""Authorities, certificates and files of them; callers and their tokens."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from ntm_serve.auth.tokens import hash_of, new_token
from ntm_serve.client import Tls

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Pems:
    """Files: an authority, and a certificate of it with its key."""

    ca: Path
    cert: Path
    key: Path

    @property
    def settings(self):
        """Of a server that has it."""
        return {"tls_cert": self.cert, "tls_key": self.key}

    def shown(self, authority):
        """A client that shows it, to a server of that authority."""
        return Tls(ca=authority.ca, cert=self.cert, key=self.key)


class Authority:
    """Signs certificates."""

    def __init__(self, folder, name):
        self._ca = trustme.CA(organization_name=name)
        self._folder = folder / name
        self._folder.mkdir()
        self.ca = self._folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, *names, common_name=None, days=30, into="cert"):
        """A certificate of these names, into files that it replaces; days: until it ends, or since it ended."""
        made = self._ca.issue_cert(
            *names, common_name=common_name, not_before=NOW - timedelta(days=60), not_after=NOW + timedelta(days=days)
        )
        pems = Pems(self.ca, self._folder / f"{into}.pem", self._folder / f"{into}.key")
        replace(pems.key, made.private_key_pem.bytes())
        replace(pems.cert, b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return pems


def replace(path, data):
    """As who renews does it: a file is there, whole, at any time."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


@pytest.fixture
def stranger(tmp_path):
    """An authority that nobody trusts."""
    return Authority(tmp_path, "theirs")


@pytest.fixture
def pems(authority):
    """What a server has."""
    return authority.issue("localhost", "127.0.0.1", into="server")


class CallersFile:
    """A file of callers that a test writes, and the tokens that are in it."""

    def __init__(self, path):
        self.path = path
        self._entries = {}
        self.path.write_text("")

    @property
    def settings(self):
        """Of a server that reads it."""
        return {"auth_file": self.path}

    def add(self, name, tenant="", *, roles=(), more=""):
        """A caller's new token."""
        token = new_token()
        self._entries[name] = (
            f"[[tokens]]\nname = {name!r}\ntenant = {tenant!r}\nroles = {list(roles)}\n"
            f"sha256 = '{hash_of(token).hex()}'\n{more}\n"
        )
        self._write()
        return token

    def add_certificate(self, name, tenant):
        self._entries[name] = f"[[certificates]]\nname = {name!r}\ntenant = {tenant!r}\n"
        self._write()

    def revoke(self, name):
        del self._entries[name]
        self._write()

    def _write(self):
        replace(self.path, "".join(self._entries.values()).encode())


@pytest.fixture
def callers(tmp_path):
    return CallersFile(tmp_path / "callers.toml")


def until(happened):
    """Until it has; files are looked at every two seconds."""
    end_s = time.monotonic() + 30.0
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.05)
