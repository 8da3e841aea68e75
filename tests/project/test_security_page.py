"""What docs/security.md says is so: its files are read, its program runs, its tables are the server's."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import trustme

from ntm_serve.app import load_models
from ntm_serve.auth.callers import read_callers
from ntm_serve.auth.limits import read_tenants
from ntm_serve.config import Settings
from ntm_serve.frontends.access import RULES, Rule
from ntm_serve.tenants import NO_LIMITS, TenantLimits
from ntm_serve.testing import test_server

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def test_the_commands_and_the_program_work_together(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = authority.issue_cert("localhost")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    *tokens, serve = blocks("")[0].strip().splitlines()
    for command in tokens:
        shell = command.replace("ntm-serve", f"{shlex.quote(sys.executable)} -m ntm_serve.cli")
        subprocess.run(shell, shell=True, cwd=tmp_path, timeout=60, check=True)
    words = shlex.split(serve)[2:]
    given = {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    files = {name: tmp_path / given.pop(name) for name in ("tls_cert", "tls_key", "auth_file")}
    assert given.pop("host") == "0.0.0.0"
    (program,) = blocks("python")
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=8), **files, **given) as server:
        ours = program.replace("localhost:8001", f"localhost:{server.running.port}")
        assert ours != program
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", ours], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
    assert ran.stdout == "0 sessions of ours\n"


def test_the_files_are_read(tmp_path):
    callers, tenants = blocks("toml")
    (tmp_path / "callers.toml").write_text(callers)
    (tmp_path / "tenants.toml").write_text(tenants)
    caller = read_callers(tmp_path / "callers.toml").by_certificate(["gateway-7.acme.example"])
    assert caller.tenant == "acme"
    limits = read_tenants(tmp_path / "tenants.toml", NO_LIMITS)["acme"]
    assert (limits.sessions_max, limits.steps_per_s_max) == (5000, 20000)


def test_the_table_of_limits_has_every_one():
    rows = re.findall(r"^\| (`tenant_\w+`)? ?\| `(\w+)` \| `(\w+)` \|$", TEXT, re.MULTILINE)
    assert {limit for _, _, limit in rows} == {one.name for one in fields(TenantLimits)}
    of_tenants = {name.strip("`") for name, _, _ in rows if name}
    assert of_tenants == {name for name in Settings.model_fields if name.startswith("tenant_")}
    assert {name for _, name, _ in rows} <= set(Settings.model_fields)


def test_every_setting_that_is_named_is_one():
    settings = set(Settings.model_fields)
    for name in ("tls", "auth", "tenant", "connection"):
        named = set(re.findall(rf"`({name}s?_\w+?)(?:=\w+)?`", TEXT))
        assert named
        assert named <= settings
    assert {name for name in settings if name.startswith(("tls_", "auth_", "tenant", "connection"))} <= set(
        re.findall(r"`(\w+)`", TEXT)
    )


@pytest.mark.parametrize(("path", "rule"), RULES.items())
def test_the_table_of_calls_says_whom_each_is_for(path, rule):
    _, service, method = path.split("/")
    words = {Rule.ANYBODY: "anybody", Rule.CALLER: "callers", Rule.ADMIN: "callers with the role `admin`"}
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    words_of_method = "shared memory" if method.endswith("SharedMemoryStatus") else method
    if path.endswith(("Register", "Unregister", "Setting", "Settings")):
        words_of_method = "would set something"
    said = {who for calls, who in rows if service in calls and (words_of_method in calls or f"`{service}`," in calls)}
    if service.startswith("grpc.reflection") or path.endswith("Health/List"):
        said = {who for calls, who in rows if "Health List, reflection" in calls}
    assert said == {words[rule]}
