"""docker-compose.yml, without Docker: every service is hardened, replicas can be many, and what it mounts is there.
With Docker it is run by `make compose-test`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "container_name" not in service
    assert not {"privileged", "cap_add"} & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_this_machine_alone_unless_told_otherwise(name):
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("${LISTEN:-127.0.0.1}:")


def test_replicas_have_no_port_of_the_machine_so_that_there_can_be_any_number():
    assert SERVICES["server"]["scale"] == 3
    assert "ports" not in SERVICES["server"]


def test_profiles_start_what_their_names_say():
    profiles = {name: set(service["profiles"]) for name, service in SERVICES.items()}
    assert {name for name, of in profiles.items() if "single" in of} == {"single"}
    assert {name for name, of in profiles.items() if "cluster" in of} == {"server", "balancer", "valkey", "prometheus"}
    assert {name for name, of in profiles.items() if "observability" in of} == {
        "server", "balancer", "valkey", "prometheus", "grafana"
    }  # fmt: skip
    assert "COMPOSE_PROFILES=cluster\n" in (ROOT / ".env").read_text()


def test_what_is_mounted_is_there_and_cannot_be_written():
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists()
                assert volume.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]


def test_the_store_can_be_reached_by_servers_alone():
    assert COMPOSE["networks"]["store"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "store" in service.get("networks", ())} == {
        "server", "valkey"
    }  # fmt: skip


def test_without_an_engine_the_test_of_it_says_so_and_is_skipped(tmp_path):
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho no engine >&2; exit 1\n")
    docker.chmod(0o755)
    for path in (str(tmp_path), str(tmp_path / "nothing")):
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.compose"],
            cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert "skipped: it needs a Docker Engine" in ran.stdout
