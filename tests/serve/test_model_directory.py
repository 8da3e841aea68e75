"""Reading model directories: what is damaged, missing or foreign is refused by name."""

import hashlib
import io
import json
import pickle
import shutil

import numpy as np
import pytest

from ntm_serve.errors import InvalidInput, ModelDamaged, ModelIncomplete, ModelRejected
from ntm_serve.manifest import MANIFEST_FILE, REQUIRED_FILES, content_sha256
from ntm_serve.model_directory import golden_arrays, golden_run, read_model_directory
from tests.serve.embedding import RANGE, write_embedding


@pytest.fixture
def folder(zoo, tmp_path):
    """A copy of a trained model's directory."""
    return shutil.copytree(zoo / "copy-ff" / "1", tmp_path / "copy-ff" / "1")


def rewrite(folder, name, content):
    """Another content under the same name, and a manifest that promises it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    write_signed(folder, manifest)


def write_signed(folder, manifest):
    (folder / MANIFEST_FILE).write_text(json.dumps({**manifest, "sha256": content_sha256(manifest)}))


def edit_manifest(folder, change):
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    write_signed(folder, manifest)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_whole_directory_is_read(folder):
    directory = read_model_directory(folder)
    assert directory.digest == hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    assert [array.shape for array in directory.initial_state] == [spec.shape for spec in directory.spec.state]
    assert not directory.initial_state[0].flags.writeable
    assert len(directory.golden.state[0]) == directory.golden.steps + 1


def test_a_golden_run_begins_at_the_initial_state(folder):
    directory = read_model_directory(folder)
    for initial, recorded in zip(directory.initial_state, directory.golden.state, strict=True):
        assert np.array_equal(initial, recorded[0])


def test_a_state_without_axes_stays_without_axes(folder):
    def scalar(manifest):
        manifest["state"] = [{**manifest["state"][0], "name": "count", "dtype": "int64", "shape": []}]

    directory = read_model_directory(folder)
    arrays = golden_arrays(directory.spec, directory.golden)
    kept = {name: array for name, array in arrays.items() if not name.startswith("state/")}
    edit_manifest(folder, scalar)
    rewrite(folder, "initial_state.npz", npz(count=np.int64(7)))
    rewrite(folder, "golden.npz", npz(**kept, **{"state/count": np.arange(directory.golden.steps + 1)}))
    assert [array.shape for array in read_model_directory(folder).initial_state] == [()]


def test_a_golden_run_survives_its_file(folder):
    directory = read_model_directory(folder)
    back = golden_run(directory.spec, golden_arrays(directory.spec, directory.golden))
    for one, other in zip(back.state, directory.golden.state, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_flipped_bit_is_found_and_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelDamaged, match=rf"{name}: expected {len(content)} bytes with sha256 \w+, got"):
        read_model_directory(folder)


def test_a_manifest_that_was_changed_is_found(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace('"tolerance": 1e-05', '"tolerance": 1e+05'))
    with pytest.raises(ModelDamaged, match=r"manifest\.json: expected content with sha256 \w{64}, got \w{64}"):
        read_model_directory(folder)
    (folder / MANIFEST_FILE).write_text(json.dumps({**json.loads(text), "sha256": ""}))
    with pytest.raises(ModelDamaged, match="expected content with sha256 of its own"):
        read_model_directory(folder)


def test_a_torn_file_is_found_and_named(folder):
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[:100])
    with pytest.raises(ModelDamaged, match=r"model.onnx: expected \d+ bytes .* got 100 bytes"):
        read_model_directory(folder)


@pytest.mark.parametrize("name", [MANIFEST_FILE, *REQUIRED_FILES])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelIncomplete, match=f"{name}: expected a readable file, got: No such file"):
        read_model_directory(folder)


def test_a_manifest_that_is_no_json_is_refused(folder):
    (folder / MANIFEST_FILE).write_text("{")
    with pytest.raises(ModelRejected, match=r"manifest\.json: "):
        read_model_directory(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest: manifest.update(schema_version=2), "schema_version: Input should be 1"),
        (lambda manifest: manifest.pop("family"), "family: Field required"),
        (lambda manifest: manifest.update(surprise=1), "surprise: Extra inputs"),
        (lambda manifest: manifest["inputs"][0].update(dtype="float8"), "x: expected a dtype of"),
        (lambda manifest: manifest["inputs"][0].update(shape=[-1]), "every axis to be at least 1"),
        (lambda manifest: manifest["inputs"][0].update(range={"min": 0, "max": 7}), "x: range: expected one of whole"),
        (lambda manifest: manifest["outputs"][0].update(range={"min": 0, "max": 7}), "range: Extra inputs"),
        (lambda manifest: manifest["files"].pop("golden.npz"), r"missing \['golden.npz'\]"),
        (
            lambda manifest: manifest["files"].update({"../../secret": manifest["files"]["model.onnx"]}),
            "expected plain file names, got '../../secret'",
        ),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(folder, change, says):
    edit_manifest(folder, change)
    with pytest.raises(ModelRejected, match=says):
        read_model_directory(folder)


def ranged(**changes):
    return lambda manifest: manifest["inputs"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ranged(range={"min": 8, "max": 7}),
            r"token: range: expected -9\d+ <= min <= max <= 9\d+, as it is int64, got",
        ),
        (ranged(range={"min": -(2**63) - 1, "max": 7}), "got min -9223372036854775809 and max 7"),
        (ranged(dtype="uint8", range={"min": 0, "max": 256}), "0 <= min <= max <= 255, as it is uint8, got min 0 and"),
        (ranged(dtype="uint64", range={"min": 0, "max": 2**63}), "<= 9223372036854775807, as it is uint64"),
        (ranged(dtype="bool", range={"min": 0, "max": 1}), "range: expected one of whole numbers alone, got 0..1 of"),
        (ranged(range={"min": 0}), "inputs.0.range.max: Field required"),
        (ranged(range={"min": 0, "max": 7.0}), "inputs.0.range.max: Input should be a valid integer"),
        (ranged(range={"min": 0, "max": "7"}), "inputs.0.range.max: Input should be a valid integer"),
        (ranged(range=[0, 7]), "inputs.0.range: Input should be an object"),
        (ranged(range={"min": 0, "max": 7, "step": 2}), "inputs.0.range.step: Extra inputs"),
        (ranged(range={"min": 0, "max": 6}), r"golden inputs: token: expected numbers from 0 to 6, got 7 at \[1, 0\]"),
    ],
)
def test_a_range_that_cannot_be_is_refused(tmp_path, change, says):
    folder = write_embedding(tmp_path / "embedding" / "1", RANGE)
    edit_manifest(folder, change)
    with pytest.raises(ModelRejected, match=says):
        read_model_directory(folder)


def test_a_range_is_read_and_a_manifest_without_one_has_no_word_of_it(tmp_path):
    ranged, free = (write_embedding(tmp_path / name / "1", given) for name, given in (("a", RANGE), ("b", None)))
    assert read_model_directory(ranged).spec.inputs[0].range == (0, 7)
    assert json.loads((ranged / MANIFEST_FILE).read_text())["inputs"][0]["range"] == {"min": 0, "max": 7}
    assert read_model_directory(free).spec.inputs[0].range is None
    assert "range" not in (free / MANIFEST_FILE).read_text()


def test_an_initial_state_of_another_shape_is_refused(folder):
    directory = read_model_directory(folder)
    arrays = {spec.name: array for spec, array in zip(directory.spec.state, directory.initial_state, strict=True)}
    rewrite(folder, "initial_state.npz", npz(**{**arrays, "memory": np.zeros((7, 20), np.float32)}))
    with pytest.raises(ModelRejected, match=r"memory: expected float32\[128, 20\], got float32\[7, 20\]"):
        read_model_directory(folder)


def test_a_pickle_is_never_read(folder):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    rewrite(folder, "golden.npz", pickle.dumps(Trap()))
    with pytest.raises(ModelRejected, match=r"golden.npz: expected an npz archive of plain arrays"):
        read_model_directory(folder)
    rewrite(folder, "golden.npz", npz(x=np.array([Trap()], dtype=object)))
    with pytest.raises(ModelRejected, match=r"golden.npz: expected an npz archive of plain arrays"):
        read_model_directory(folder)


def test_a_single_array_in_place_of_an_archive_is_refused(folder):
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    rewrite(folder, "golden.npz", file.getvalue())
    with pytest.raises(ModelRejected, match=r"golden.npz: expected an npz archive"):
        read_model_directory(folder)


def test_a_golden_run_whose_lengths_differ_is_refused(folder):
    directory = read_model_directory(folder)
    arrays = golden_arrays(directory.spec, directory.golden)
    with pytest.raises(InvalidInput, match="expected T >= 1 inputs and outputs and T"):
        golden_run(directory.spec, {**arrays, "outputs/y": arrays["outputs/y"][1:]})
