"""A whole export: what is written is what a server loads, and a failure leaves nothing."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporter.steps import Cell, ntm_source, source_of

from ntm_exporter import export as exporting
from ntm_exporter.errors import ContractFault, ParityFault
from ntm_exporter.export import Exported, Options, export
from ntm_models.tasks import Copy
from ntm_serve.bundle import npz
from ntm_serve.engine import OrtEngine, golden_error
from ntm_serve.errors import ModelDamaged, SettingsFault
from ntm_serve.manifest import MANIFEST_FILE
from ntm_serve.model_directory import read_model_directory


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def ntm(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("models")
    (out / "c.svg").write_text("<svg/>")
    source = replace(
        ntm_source("lstm"),
        scored=Copy(bits=3),
        roles={"memory": "memory"},
        recipe="small",
        recipe_text="seed = 7",
        seed=7,
    )
    options = Options(
        out=out, name="small", version="3", sequences=2, licence="Apache-2.0", provenance="a test", curve=out / "c.svg"
    )
    return export(source, options)


def test_what_is_written_reads_back_whole(ntm: Exported) -> None:
    directory = read_model_directory(ntm.path)

    assert ntm.path.parts[-2:] == ("small", "3")
    assert directory.manifest == ntm.manifest
    assert set(content(ntm.path)) == {*directory.manifest.files, MANIFEST_FILE}
    assert set(directory.manifest.files) == {"model.onnx", "initial_state.npz", "golden.npz", "README.md", "curve.svg"}
    assert directory.golden.steps == 32
    assert all(
        np.array_equal(run[0], first)
        for run, first in zip(directory.golden.state, directory.initial_state, strict=True)
    )


def test_the_engine_replays_the_golden_run_within_the_tolerance_of_the_export(ntm: Exported) -> None:
    directory = read_model_directory(ntm.path)
    engine = OrtEngine(directory, name="small", version="3")

    assert 0 < golden_error(engine.run, directory.golden) <= ntm.manifest.verification.tolerance


def test_the_manifest_says_what_was_proved_and_where_the_weights_come_from(ntm: Exported) -> None:
    manifest = ntm.manifest

    assert (manifest.family, manifest.task, manifest.opset) == ("ntm", "copy", 20)
    assert manifest.state[0].role == "memory"
    assert (manifest.state[0].graph_input, manifest.state[0].graph_output) == ("memory", "next_memory")
    assert manifest.verification.batch_sizes == (1, 2, 7, 64)
    assert manifest.verification.parity_error_max <= manifest.verification.tolerance == 1e-5
    assert [one.length for one in manifest.verification.scores] == [10, 20, 40, 60, 80, 120]
    assert all(one.wrong_bits_torch == one.wrong_bits_engine for one in manifest.verification.scores)
    assert (manifest.provenance.licence, manifest.provenance.source) == ("Apache-2.0", "a test")
    assert (manifest.provenance.recipe, manifest.provenance.seed) == ("small", 7)


def test_the_card_shows_recipe_curve_and_score(ntm: Exported) -> None:
    text = (ntm.path / "README.md").read_text()

    for entry in ntm.manifest.verification.scores:
        row = (
            f"| {entry.length} | {entry.wrong_bits_torch:g} | {entry.wrong_bits_engine:g} | {entry.exact_engine} of 2 |"
        )
        assert row in text
    assert "| recipe | small, seed 7 |" in text
    assert "![Training curve](curve.svg)" in text
    assert 'client.session("small")' in text
    assert str(ntm.path.parent.parent) not in text


def test_the_card_opens_a_session_with_what_sessions_are_given(tmp_path: Path) -> None:
    given = {"h": np.ones(4, np.float32)}
    exported = export(source_of(Cell(), example_state=lambda seed: given), Options(out=tmp_path))

    text = (exported.path / "README.md").read_text()
    assert (
        'given = {"h": h}\nwith Client("localhost:8001") as client, client.session("cell", initial_state=given)' in text
    )


def test_the_same_source_gives_the_same_files(tmp_path: Path) -> None:
    first = export(source_of(Cell()), Options(out=tmp_path / "a"))
    again = export(source_of(Cell()), Options(out=tmp_path / "b"))

    assert content(first.path) == content(again.path)


def test_an_archive_depends_on_its_arrays_alone_and_takes_any_name() -> None:
    arrays = {"file": np.arange(3), "allow_pickle": np.zeros(())}

    assert hashlib.sha256(npz(arrays)).digest() == hashlib.sha256(npz(arrays)).digest()
    assert npz(arrays) != npz({**arrays, "file": np.arange(4)})


def test_a_target_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "cell" / "1").mkdir(parents=True)
    source = replace(source_of(Cell()), step=None)

    with pytest.raises(SettingsFault, match="cell/1: exists; --force replaces it"):
        export(source, Options(out=tmp_path))


def test_force_replaces_a_target_whole(tmp_path: Path) -> None:
    old = tmp_path / "cell" / "1" / "leftover.txt"
    old.parent.mkdir(parents=True)
    old.write_text("old")

    exported = export(source_of(Cell()), Options(out=tmp_path, force=True))

    assert not old.exists()
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["1"]
    read_model_directory(exported.path)


@pytest.mark.parametrize("force", [True, False])
def test_an_export_that_fails_half_way_leaves_what_was_there(
    tmp_path: Path, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if force:
        export(source_of(Cell()), Options(out=tmp_path))
    before = content(tmp_path)

    def torn(arrays: Any) -> bytes:
        return npz({name: array + 1 if name.startswith("outputs/") else array for name, array in arrays.items()})

    monkeypatch.setattr(exporting, "npz", torn)
    with pytest.raises(ModelDamaged, match="golden run"):
        export(source_of(Cell()), Options(out=tmp_path, force=force))

    assert content(tmp_path) == before
    assert force == (tmp_path / "cell").exists()


def test_a_tolerance_that_is_not_met_refuses_the_export_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ParityFault, match="within 1e-12"):
        export(ntm_source("gru"), Options(out=tmp_path / "models", tolerance=1e-12))

    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../up"}, "--name: expected letters"),
        ({"name": ".hidden"}, "--name: expected letters"),
        ({"version": "v1"}, "--version: expected a whole number of at least 1, got 'v1'"),
        ({"version": "0"}, "--version"),
        ({"curve": Path("curve.pdf")}, "--curve: expected a file ending in .svg or .png, got 'curve.pdf'"),
        ({"curve": Path("missing.svg")}, "--curve: missing.svg: cannot be read"),
    ],
)
def test_a_target_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsFault, match=message):
        export(source_of(Cell()), replace(Options(out=tmp_path), **change))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")

    with pytest.raises(SettingsFault, match="models/cell: expected a folder to write into"):
        export(source_of(Cell()), Options(out=tmp_path / "models"))


def test_a_step_that_claims_a_task_it_has_no_tensors_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractFault, match=r"task 'copy': expected inputs and outputs .*'x': 'float32\[9\]'"):
        export(source_of(Cell(), task="copy", scored=Copy()), Options(out=tmp_path))
