"""Scoring a served model: `ntm-models eval`, and the promises of the zoo. None of it needs torch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from ntm_models import report as report_module
from ntm_models import zoo as zoo_module
from ntm_models.cli import app
from ntm_models.errors import EvaluationFault
from ntm_models.evaluate import Evaluation, evaluate, task_for
from ntm_models.recipe import Claim
from ntm_models.tasks import TASKS, Copy, EntityTracking
from ntm_models.zoo import Finding, check, fault_of_claim, fault_of_figure, lengths_of, read_zoo, survey
from ntm_serve.app import load_models
from ntm_serve.auth.tokens import hash_of, new_token
from ntm_serve.client import Client
from ntm_serve.manifest import ScoreEntry
from ntm_serve.spec import Range
from ntm_serve.testing import RunningSum, test_server

ZOO = Path(__file__).parents[2] / "models" / "zoo"
RECIPES = ZOO.parent / "recipes"


@pytest.fixture(scope="module")
def target():
    with test_server(load_models(ZOO, batch_max=64)) as server:
        yield server.target


@pytest.fixture
def client(target):
    with Client(target) as connected:
        yield connected


@pytest.fixture
def entry():
    """The feed-forward copier, with little to measure."""
    (found,) = (one for one in read_zoo(ZOO, RECIPES) if one.name == "copy-ff")
    figure = ScoreEntry(length=4, sequences=5, seed=1, wrong_bits_torch=0, wrong_bits_engine=0, exact_engine=5)
    verification = found.manifest.verification.model_copy(update={"scores": (figure,)})
    manifest = found.manifest.model_copy(update={"verification": verification})
    return replace(found, manifest=manifest, claims=(Claim(length=3, score_max=0, exact_min=100),))


def scored(length=3, score=0.0, exact: int | None = 100):
    return Evaluation(length=length, steps=7, sequences=100, score=score, exact=exact)


def test_a_trained_model_has_no_wrong_bit_and_each_sequence_is_told(client):
    advanced = []
    found = evaluate(
        client, "copy-ff", Copy(), length=10, sequences=40, seed=5, advance=lambda: advanced.append(1)
    )  # fmt: skip
    assert found == Evaluation(length=10, steps=21, sequences=40, score=0.0, exact=40)
    assert len(advanced) == 40


def test_sessions_of_an_evaluation_are_closed(client):
    evaluate(client, "copy-ff", Copy(), length=2, sequences=3, seed=5)
    assert list(client.sessions()) == []


def test_wrong_bits_are_counted(client, monkeypatch):
    right = Copy.episodes

    def turned(self, **options):
        episodes = right(self, **options)
        episodes.y[0, -1] = 1 - episodes.y[0, -1]
        return episodes

    monkeypatch.setattr(Copy, "episodes", turned)
    found = evaluate(client, "copy-ff", Copy(), length=5, sequences=4, seed=5)
    assert (found.score, found.exact) == (2.0, 3)


def test_eval_prints_a_table_of_the_task_that_the_model_learned(target):
    result = CliRunner().invoke(
        app, ["eval", "copy-ff", "--length", "3", "--length", "5", "--sequences", "6", "--target", target]
    )
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["length", "steps", "sequences", "wrong", "bits", "exact"]
    assert rows[1:] == [["3", "7", "6", "0", "6", "of", "6"], ["5", "11", "6", "0", "6", "of", "6"]]


def test_eval_reaches_a_server_with_tls_that_asks_who_calls(tmp_path, monkeypatch):
    ca, token = trustme.CA(), new_token()
    certificate = ca.issue_cert("localhost")
    files = {name: tmp_path / name for name in ("ca", "cert", "key", "callers", "token")}
    ca.cert_pem.write_to_path(files["ca"])
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    files["callers"].write_text(
        f'[[tokens]]\nname = "us"\ntenant = "ours"\nroles = []\nsha256 = "{hash_of(token).hex()}"\n'
    )
    files["token"].write_text(token)
    arguments = ["eval", "copy-ff", "--length", "3", "--sequences", "2"]
    settings = {"tls_cert": files["cert"], "tls_key": files["key"], "auth_file": files["callers"]}
    with test_server(load_models(ZOO, batch_max=64), **settings) as server:
        arguments += ["--server", f"localhost:{server.target.rpartition(':')[2]}"]
        assert "expected a token" in CliRunner().invoke(app, [*arguments, "--tls-ca", str(files["ca"])]).stderr
        monkeypatch.setenv("NTM_SERVE_CLIENT_TLS_CA", str(files["ca"]))
        monkeypatch.setenv("NTM_SERVE_CLIENT_TOKEN_FILE", str(files["token"]))
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.split()[-4:] == ["0", "2", "of", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["copy-fff"], "copy-fff"),
        (["copy-ff", "--task", "sort"], "task: expected one of copy, repeat-copy, "),
        (["copy-ff", "--task", "dyck-words"], "copy-ff: dyck-words needs the inputs x float32[1], got x float32[9]"),
        (["copy-ff", "--length", "0"], "expected a length of at least 1 and sequences of at least 1, got 0 and 100"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_status_1(arguments, message, target):
    result = CliRunner().invoke(app, ["eval", *arguments, "--target", target])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_model_of_no_known_task_is_refused():
    with test_server([RunningSum()]) as server, Client(server.target) as client:
        model = client.models()[0]
        with pytest.raises(EvaluationFault, match="task: expected one of copy, "):
            task_for(model, "")


def test_a_model_whose_inputs_have_a_range_does_its_task(client):
    model = client.model("entity-tracking-entnet")
    ranged = tuple(replace(one, range=Range(0, 15)) for one in model.inputs)
    assert isinstance(task_for(replace(model, inputs=ranged), ""), EntityTracking)


def test_every_entry_of_the_zoo_is_found_with_what_its_recipe_claims():
    entries = read_zoo(ZOO, RECIPES)
    assert [entry.name for entry in entries] == sorted(path.name for path in ZOO.iterdir())
    claims = {entry.name: entry.claims for entry in entries}
    assert Claim(length=120, score_max=0, exact_min=100) in claims["copy-ff"]


def test_a_folder_that_is_no_model_is_refused_by_its_manifest(tmp_path):
    (tmp_path / "x" / "1").mkdir(parents=True)
    (tmp_path / "x" / "1" / "manifest.json").write_text("{}")
    with pytest.raises(EvaluationFault, match=r"manifest\.json: expected a manifest"):
        read_zoo(tmp_path, RECIPES)


def test_promises_that_hold_are_found_to_hold(client, entry):
    findings = list(check(client, entry))
    assert [(one.measured.length, one.measured.sequences, one.fault) for one in findings] == [(3, 100, ""), (4, 5, "")]
    assert [one.promise for one in findings] == ["at most 0 bits, 100 of 100 exact", "0 bits on the card's sequences"]


def test_a_figure_that_does_not_hold_is_a_fault(client, entry):
    (figure,) = entry.manifest.verification.scores
    wrong = entry.manifest.verification.model_copy(
        update={"scores": (figure.model_copy(update={"wrong_bits_engine": 0.5}),)}
    )
    changed = replace(entry, manifest=entry.manifest.model_copy(update={"verification": wrong}), claims=())
    (found,) = check(client, changed)
    assert found.fault == "expected the card's 0.5 bits within 0.075, got 0"


@pytest.mark.parametrize(
    ("claim", "measured", "fault"),
    [
        (Claim(3, 0.0), scored(), ""),
        (Claim(3, 0.0), scored(score=0.01), "expected at most 0 bits, got 0.01"),
        (Claim(3, 1.0, 95), scored(score=0.2, exact=95), ""),
        (Claim(3, 1.0, 95), scored(score=0.2, exact=94), "expected no wrong bit in 95 of 100 sequences, got 94"),
        (Claim(3, 6.0), scored(score=5.0, exact=None), ""),
        (Claim(3, 6.0), scored(score=float("nan"), exact=None), "expected at most 6 bits, got nan"),
    ],
)
def test_a_claim_holds_or_says_what_does_not(claim, measured, fault):
    assert fault_of_claim(claim, measured) == fault


def test_the_figure_of_a_task_of_chance_is_its_cost_beyond_the_optimum():
    figure = ScoreEntry(
        length=200, sequences=5, seed=1, wrong_bits_torch=70, wrong_bits_engine=70, exact_engine=0,
        cost_bits_engine=133.0, cost_bits_optimal=129.0,
    )  # fmt: skip
    assert fault_of_figure(figure, scored(score=4.1, exact=None)) == ""
    assert "expected the card's 4 bits" in fault_of_figure(figure, scored(score=4.4, exact=None))


def test_a_survey_measures_every_length_that_the_task_shows_and_every_claim(client, entry, monkeypatch):
    monkeypatch.setattr(Copy, "lengths_shown", (2, 3))
    monkeypatch.setattr(zoo_module, "FRESH_SEQUENCES", 4)
    entry = replace(entry, claims=(Claim(3, 0.0), Claim(5, 0.0)))
    assert lengths_of(entry) == [2, 3, 5]
    assert [(one.measured.length, one.promise) for one in survey(client, entry)] == [
        (2, ""), (3, "at most 0 bits"), (5, "at most 0 bits"),
    ]  # fmt: skip


def test_the_report_shows_every_entry_under_its_task_and_says_what_is_not_held(entry):
    findings = [
        Finding(entry, "at most 0 bits", scored(score=0.25, exact=99), "expected at most 0 bits, got 0.25"),
        Finding(entry, "", scored(length=9, score=12.5, exact=3)),
    ]
    text = report_module.report([(entry, findings)])
    assert "## copy: lengths are vectors" in text
    assert "### [copy-ff](../models/zoo/copy-ff/1/README.md), version 1" in text
    assert "| 3 | 7 | 0.25 | 99 of 100 | at most 0 bits: not held |" in text
    assert "| 9 | 7 | 12.5 | 3 of 100 |  |" in text


def test_the_report_of_the_zoo_knows_every_model_that_is_shipped():
    text = (ZOO.parents[1] / "docs" / "zoo.md").read_text()
    for entry in read_zoo(ZOO, RECIPES):
        assert f"### [{entry.name}](../models/zoo/{entry.name}/{entry.version}/README.md)" in text
        assert entry.manifest.task in TASKS
    assert "not held" not in text


def test_scoring_imports_no_torch():
    code = "import sys, ntm_models.cli; sys.exit(bool({'torch', 'matplotlib', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
