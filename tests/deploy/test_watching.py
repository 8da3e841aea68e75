"""What watches servers, against a real Prometheus that scrapes a real server under load: every panel of the dashboard
has data, every alert could fire and none does, and the runbook knows each.
"""

import json
import os
import re
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
from serve.stores.redis_server import free_ports, wait_until

from benchmarks.compose import panels
from ntm_serve.client import Client
from ntm_serve.errors import NtmServeError
from ntm_serve.testing import RunningSum, test_server

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES}
ONE = np.ones(1, np.float32)
# There is no balancer here, which is what `make compose-test` looks at, and no certificate.
ABSENT = re.compile("haproxy_|ntm_serve_certificate_")


def program(name):
    """The path of a program of Prometheus. Where it is missing the test is skipped at home, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        assert os.environ.get("CI") != "true", f"{name} is missing (Debian package prometheus)"
        pytest.skip(f"{name} is missing (Debian package prometheus)")
    return found


class Load:
    """Sessions that are stepped, leave memory and come back, and calls that fail, until the end of the block."""

    def __init__(self, target):
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.fault = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *fault):
        self._over.set()
        self._thread.join()

    def _run(self):
        try:
            with Client(self._target, retry=None) as client:
                sessions = [client.session("running-sum", session_id=f"device-{number}") for number in range(24)]
                while not self._over.is_set():
                    for session in sessions:
                        session.step([ONE, ONE])
                    client.session("running-sum").close()
                    with suppress(NtmServeError):
                        client.session_info("nobody")
        except Exception as fault:
            self.fault = fault


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """The address of one that has scraped a server under load, for as long as it is asked."""
    folder = tmp_path_factory.mktemp("prometheus")
    # Room in memory for 8 of the sessions.
    room = 8 * RunningSum().spec.state_bytes
    store = f"sqlite:{folder}/sessions.db"
    with test_server([RunningSum()], store=store, resident_bytes_max=room) as server, Load(server.target) as load:
        own = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        scraped = {"job_name": "ntm-serve", "static_configs": [{"targets": [server.http.removeprefix("http://")]}]}
        own |= {"scrape_configs": [scraped], "rule_files": [str(FOLDER / "rules.yml")]}
        own["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(own))
        [port] = free_ports(1)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{port}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(url), f"Prometheus to start: {folder}/log")
            many = 'min_over_time(up{job="ntm-serve"}[1m]) * count_over_time(up{job="ntm-serve"}[1m]) >= 4'
            wait_until(lambda: asked(url, many), f"four scrapes: {folder}/log")
            yield url
            assert load.fault is None
        finally:
            process.kill()
            process.wait()


def asked(url, expression):
    """The values of an expression."""
    try:
        with urlopen(f"{url}/api/v1/query?query={quote(expression)}", timeout=10) as response:
            return [float(one["value"][1]) for one in json.load(response)["data"]["result"]]
    except HTTPError as refused:
        with refused:
            raise AssertionError(f"{expression}: {refused.read().decode()}") from None


def answers(url):
    """Whether Prometheus is ready."""
    try:
        with urlopen(f"{url}/-/ready", timeout=10) as response:
            return response.status == 200
    except HTTPError as refused:
        refused.close()
        return False
    except URLError:
        return False


@pytest.mark.parametrize("title", panels())
def test_every_panel_of_the_dashboard_has_data(prometheus, title):
    for expression in panels()[title]:
        values = asked(prometheus, expression)
        if ABSENT.search(expression):
            assert values == []
        else:
            assert [value for value in values if not np.isnan(value)], expression


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_what_it_looks_at_and_does_not_fire_where_all_is_well(prometheus, name):
    expression = ALERTS[name]["expr"]
    looked_at = re.fullmatch(r"(.+) (?:==|>|<) [\d.]+", expression, re.DOTALL)
    assert looked_at, "expected what is looked at, a comparison and a number"
    assert bool(asked(prometheus, looked_at[1])) == (not ABSENT.search(expression))
    assert asked(prometheus, expression) == []


def test_prometheus_evaluates_the_rules_without_a_fault(prometheus):
    def rules():
        with urlopen(f"{prometheus}/api/v1/rules", timeout=10) as response:
            return json.load(response)["data"]["groups"][0]["rules"]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "all rules to be evaluated")
    assert {rule["name"]: rule["health"] for rule in rules()} == dict.fromkeys(ALERTS, "ok")


def test_the_autoscalers_metrics_have_data(prometheus):
    values = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "prometheus-adapter" / "values.yaml").read_text())
    for rule in values["rules"]["custom"]:
        query = rule["metricsQuery"].replace("<<.GroupBy>>", "instance")
        [value] = asked(prometheus, query.replace("<<.LabelMatchers>>", 'job="ntm-serve"'))
        assert value > 0, query


def test_the_rules_pass_their_own_tests():
    ran = subprocess.run(
        [program("promtool"), "test", "rules", "rules.test.yml"],
        cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tested = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
    for fires in (True, False):
        names = {
            one["alertname"] for test in tested for one in test["alert_rule_test"] if bool(one["exp_alerts"]) == fires
        }
        assert names == set(ALERTS)


def test_the_configuration_is_one_that_prometheus_takes():
    ran = subprocess.run(
        [program("promtool"), "check", "config", "--lint-fatal", FOLDER / "prometheus.yml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_has_places_that_do_not_overlap():
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "ntm-serve.json").read_text())
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ALERTS)
def test_the_runbook_knows_every_alert(name):
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert name in sections
    assert ALERTS[name]["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    assert set(sections) == set(ALERTS)
