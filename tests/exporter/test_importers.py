"""Weights that other programs trained: each program's arrays become its own function, or are refused by their names.

What is read from the files is held to the programs' formulas in `sources.py`, with small arrays of the right shapes.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from exporter import sources
from ntm_exporter.cli import app
from ntm_exporter.errors import SourceFault
from ntm_exporter.export import Options, export
from ntm_exporter.importers import PROGRAMS, Settings, import_source
from ntm_exporter.importers.arrays import read_arrays
from ntm_models.served import served
from ntm_models.tasks import Task
from ntm_serve.client import Client
from ntm_serve.model_directory import read_model_directory

SETTINGS = {"pytorch-ntm": Settings(activations="current"), "dnc-tensorflow": Settings(slots=6)}

# Of each program an array that is left out, and one of other sizes than all the others have.
SPOILT = {
    "ntm-lasagne": ("read.beta_b", "write.key_W"),
    "vlgiitr": ("heads.1.key_fc.bias", "heads.1.write_data_fc.weight"),
    "carpedm20": ("NTM|init_cell|Variable", "NTM|memory|write|Linear|add_0_w"),
    "dnc-tensorflow": ("controller|layer1_b", "controller|interface_weights"),
    "pytorch-ntm": ("ntm.fc.bias", "ntm.heads.1.fc_write.weight"),
}

every_program = pytest.mark.parametrize("name", sorted(PROGRAMS))


def arrays_of(name: str, **sizes: int) -> dict[str, np.ndarray]:
    return sources.ARRAYS[name](np.random.default_rng(7), **sizes)


def written(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / "w.npz", **arrays)
    return folder / "w.npz"


def imported(name: str, file: Path, task: str | None = "copy", settings: Settings | None = None) -> Any:
    return import_source(name, file, task, settings or SETTINGS.get(name, Settings()))


def outputs_of(step: Any, x: np.ndarray) -> np.ndarray:
    """Every output of one session. x `[T, I]`."""
    state, given = {name: value[None] for name, value in step.initial_state().items()}, []
    with torch.no_grad():
        for row in x:
            outputs, state = step({"x": torch.from_numpy(row[None])}, state)
            given.append(outputs["y"][0].numpy())
    return np.stack(given)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ntm-lasagne", Settings()),
        ("vlgiitr", Settings()),
        ("carpedm20", Settings()),
        ("dnc-tensorflow", Settings(slots=6)),
        ("pytorch-ntm", Settings(activations="2017")),
        ("pytorch-ntm", Settings(activations="current")),
    ],
    ids=str,
)
def test_an_imported_step_is_its_programs_own(name: str, settings: Settings, tmp_path: Path) -> None:
    arrays = arrays_of(name)
    source = imported(name, written(tmp_path, arrays), settings=settings)
    x = source.example_inputs(12, 3)["x"]

    wanted = sources.RUN[name](arrays, x.astype(np.float64), settings)

    np.testing.assert_allclose(outputs_of(source.step, x), wanted, atol=2e-5)
    assert np.ptp(wanted, axis=0).max() > 0.05  # A step that answers the same to everything proves nothing.


@every_program
def test_sizes_are_read_off_the_arrays(name: str, tmp_path: Path) -> None:
    step = imported(name, written(tmp_path, arrays_of(name, slots=9, width=5, units=7))).step
    assert step.options.width == 5
    assert step.initial_state()["memory"].shape == ((6 if name == "dnc-tensorflow" else 9), 5)


@every_program
def test_a_missing_an_unknown_and_a_misshaped_array_are_named_in_one_message(name: str, tmp_path: Path) -> None:
    arrays = arrays_of(name)
    missing, misshaped = SPOILT[name]
    shape = list(arrays[misshaped].shape)
    del arrays[missing]
    arrays[misshaped] = np.zeros([size + 1 for size in shape])
    arrays["surprise"] = np.zeros((2, 3))

    with pytest.raises(SourceFault) as refused:
        imported(name, written(tmp_path, arrays))

    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'w.npz'}: expected the arrays of {name}, got others: ")
    assert f"{missing}: expected [" in message
    assert "surprise: expected no such array, got [2, 3]" in message
    assert f"{misshaped}: expected [" in message
    assert f"= {shape}, got {[size + 1 for size in shape]}" in message
    assert message.count("expected") == 4  # Whatever else is there is as it should be.


def test_arrays_of_another_program_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=r"memory_init: expected \[N, M\], got nothing"):
        imported("ntm-lasagne", written(tmp_path, arrays_of("vlgiitr")))


def test_numbers_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    arrays = arrays_of("ntm-lasagne")
    arrays["dense_b"][0] = np.nan
    arrays["hid_init"] = arrays["hid_init"].astype(np.int64)
    expected = r"hid_init: expected one of .*, got int64; dense_b: expected finite numbers, got NaN or infinity"
    with pytest.raises(SourceFault, match=expected):
        imported("ntm-lasagne", written(tmp_path, arrays))


@every_program
def test_a_state_dict_of_tensors_is_read_like_an_archive(name: str, tmp_path: Path) -> None:
    arrays = {key: value.astype(np.float32) for key, value in arrays_of(name).items()}
    torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, tmp_path / "w.pt")
    np.savez(tmp_path / "w.npz", **arrays)

    one, other = (imported(name, tmp_path / file).step.state_dict() for file in ("w.pt", "w.npz"))

    assert all(torch.equal(one[key], other[key]) for key in other)


class Trap:
    """Unpickling it would leave a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.mark),)

    def __init__(self, mark: Path) -> None:
        self.mark = mark


@pytest.mark.parametrize("kind", ["whole.pt", "entry.pt", "objects.npz", "bare.pkl", "noise.npz"])
def test_nothing_is_unpickled(kind: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / kind
    trap = Trap(mark)
    if kind == "whole.pt":
        torch.save(trap, file)
    elif kind == "entry.pt":
        torch.save({"ntm.fc.bias": trap}, file)
    elif kind == "objects.npz":
        np.savez(file, memory_init=np.array([trap], dtype=object))
    elif kind == "bare.pkl":
        file.write_bytes(pickle.dumps(trap))
    else:
        file.write_bytes(b"noise")

    with pytest.raises(SourceFault, match=r"expected (an \.npz file of )?plain arrays"):
        read_arrays(file)

    assert not mark.exists()


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=r"absent\.npz: cannot be read: No such file"):
        read_arrays(tmp_path / "absent.npz")


SAID = {
    (
        "nobody",
        None,
        Settings(),
    ): "import: expected one of ntm-lasagne, vlgiitr, carpedm20, dnc-tensorflow, pytorch-ntm",
    ("ntm-lasagne", None, Settings()): "--task: ntm-lasagne: expected one of copy, repeat-copy, .*, got nothing",
    ("carpedm20", "sort", Settings()): "--task: carpedm20: expected one of copy, got sort",
    ("ntm-lasagne", "dyck-words", Settings()): "--task dyck-words: expected 1 inputs and 1 outputs, got 9 and 9",
    ("pytorch-ntm", None, Settings()): "--activations: .* expected one of 2017, current, got nothing, and no file says",
    ("pytorch-ntm", None, Settings("2016")): "--activations: .* expected one of 2017, current, got 2016",
    ("vlgiitr", "copy", Settings("2017")): "--activations: vlgiitr: expected nothing, got 2017",
    ("vlgiitr", "copy", Settings(slots=30)): "--set slots: vlgiitr: expected nothing, got 30",
    ("dnc-tensorflow", "copy", Settings(slots=0)): "--set slots: expected at least 1, got 0",
}


@pytest.mark.parametrize("said", SAID, ids=str)
def test_what_is_said_of_a_file_has_to_mean_something(said: Any, tmp_path: Path) -> None:
    name, task, settings = said
    file = written(tmp_path, arrays_of(name if name in PROGRAMS else "vlgiitr"))
    with pytest.raises(SourceFault, match=SAID[said]):
        import_source(name, file, task, settings)


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})


def test_the_command_writes_a_model_directory_with_its_provenance(tmp_path: Path) -> None:
    file = written(tmp_path, arrays_of("pytorch-ntm"))

    done = typed("import", "pytorch-ntm", file, "--activations", 2017, "--out", tmp_path, "--sequences", 1)

    assert done.exit_code == 0, done.stderr
    manifest = read_model_directory(tmp_path / "pytorch-ntm-copy" / "1").manifest
    assert (manifest.family, manifest.task) == ("ntm", "copy")
    assert manifest.provenance.licence == "BSD-3-Clause, Copyright (c) 2017 Guy Zana"
    origin = manifest.provenance.source
    assert origin.startswith("https://github.com/loudinthecloud/pytorch-ntm, w.npz (sha256 ")
    assert origin.endswith(", activations 2017")
    card = (tmp_path / "pytorch-ntm-copy" / "1" / "README.md").read_text()
    assert origin in card
    assert "| read_vector |" in card


def test_a_memory_is_served_with_as_many_slots_as_are_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path, arrays_of("dnc-tensorflow"))

    done = typed("import", "dnc-tensorflow", file, "--task", "copy", "--set", "slots=30", "--out", tmp_path,
                 "--name", "dnc", "--sequences", 1)  # fmt: skip

    assert done.exit_code == 0, done.stderr
    directory = read_model_directory(tmp_path / "dnc" / "1")
    assert {one.name: one.shape for one in directory.spec.state}["link"] == (30, 30)
    assert [one.role for one in directory.spec.state][:4] == ["memory", "usage", "precedence", "link"]
    assert directory.manifest.provenance.source.endswith(", slots 30")


@pytest.mark.parametrize("pair", ["slots", "slots=many", "rows=3"])
def test_a_setting_that_there_is_not_is_one_message(pair: str, tmp_path: Path) -> None:
    done = typed("import", "dnc-tensorflow", tmp_path / "w.npz", "--task", "copy", "--set", pair, "--out", tmp_path)
    assert done.exit_code == 1
    assert f"ntm-export: --set: expected slots=NUMBER, got {pair!r}" in done.stderr
    assert "Traceback" not in done.stderr


WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="trained weights are missing (../shared/weights)")

# What others measured on 50 sequences of each length: the mean of wrong bits. Of repeat copy, vectors and repeats.
MEASURED: dict[tuple[str, str, str, int | None], dict[int | tuple[int, int], float]] = {
    ("ntm-lasagne", "ntm-lasagne_copy", "copy", None): {5: 0, 10: 0, 20: 0, 60: 0, 120: 0},
    ("ntm-lasagne", "ntm-lasagne_repeat-copy", "repeat-copy", None): {(5, 5): 0, (5, 10): 0.26, (10, 5): 0},
    ("ntm-lasagne", "ntm-lasagne_associative-recall", "associative-recall", None): {2: 0, 6: 0.4, 10: 1.1, 20: 2.6},
    ("ntm-lasagne", "ntm-lasagne_dyck-words", "dyck-words", None): {5: 0, 10: 0, 20: 0, 40: 0, 100: 0},
    ("vlgiitr", "vlgiitr_copy", "copy", None): {20: 0, 60: 0.25, 120: 3.0},
    ("vlgiitr", "vlgiitr_associative", "associative-recall", None): {2: 0, 6: 0, 10: 0.5},
    ("carpedm20", "carpedm20_copy", "copy", None): {10: 0, 20: 0, 30: 0, 60: 87},
    ("dnc-tensorflow", "dnc-tensorflow_single-10", "copy", 15): {5: 0, 10: 0},
    ("dnc-tensorflow", "dnc-tensorflow_single-10", "copy", 30): {20: 0},
    ("dnc-tensorflow", "dnc-tensorflow_series-4", "copy-series", 10): {5: 0},
}
SEQUENCES = 50


def wrong_bits_of(client: Client, model: str, task: Task, *, length: int) -> np.ndarray:
    """The wrong bits of each of 50 sequences, every one a session of a server."""
    episodes = task.episodes(length=length, sequences=SEQUENCES, seed=0)

    def outputs_of(x: np.ndarray) -> np.ndarray:
        with client.session(model) as session:
            return np.asarray(session.step(x), dtype=np.float32)

    with ThreadPoolExecutor(32) as pool:
        return episodes.wrong_bits(np.stack(list(pool.map(outputs_of, episodes.x))))


@needs_weights
@pytest.mark.parametrize("case", MEASURED, ids=lambda case: f"{case[1]}-{case[3] or ''}".strip("-"))
def test_imported_weights_score_through_a_server_what_others_measured(case: Any, tmp_path: Path) -> None:
    program, file, task_name, slots = case
    source = import_source(program, WEIGHTS / f"{file}.npz", task_name, Settings(slots=slots))
    assert source.scored is not None
    # The score is measured below, through a server; two sequences are enough to compare torch and the engine.
    export(source, Options(out=tmp_path, name="m", tolerance=PROGRAMS[program].tolerance, sequences=2))

    with served(tmp_path) as (target, _), Client(target) as client:
        for length, wanted in MEASURED[case].items():
            vectors, repeats = length if isinstance(length, tuple) else (length, None)
            task = replace(source.scored, repeats=repeats) if repeats else source.scored
            wrong = wrong_bits_of(client, "m", task, length=vectors)
            # Theirs is a mean of 50 sequences too, of a generator of their own: where most sequences are right and a
            # few are all wrong, two such means are as far apart as their standard errors say. None wrong is none wrong.
            slack = 0 if wanted == 0 else max(0.3, 2 * np.sqrt(2 / SEQUENCES) * wrong.std())
            assert abs(wrong.mean() - wanted) <= slack, f"length {length}: expected {wanted}, got {wrong.mean()}"
