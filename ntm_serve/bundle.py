"""The model directory on disk: written beside its place, checked there, then renamed into it whole.

Rules of this file: the manifest is written last and lists every other file by its content; the same
arrays give the same bytes; a failure leaves what was there as it was, and nothing else.
"""

import hashlib
import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ntm_serve.errors import SettingsFault
from ntm_serve.manifest import MANIFEST_FILE, FileEntry, Manifest
from ntm_serve.spec import Array

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")

# The earliest date that a zip archive can hold: the archive's bytes depend on the arrays alone.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def target_directory(out: Path, name: str, version: str, *, force: bool, version_chosen: bool = True) -> Path:
    """`<out>/<name>/<version>`, where a model directory may be written. version_chosen: whether the caller could have
    said another one. Raises SettingsFault.
    """
    if not NAME.fullmatch(name):
        raise SettingsFault(f"--name: expected letters, digits and '.', '_', '-' after the first, got {name!r}")
    if not VERSION.fullmatch(version):
        raise SettingsFault(f"--version: expected a whole number of at least 1, got {version!r}")
    target = out / name / version
    if target.exists() and not force:
        beside = f", or --version {_next_version(target.parent)} writes one beside it" if version_chosen else ""
        raise SettingsFault(f"{target}: exists; --force replaces it{beside}")
    return target


def _next_version(folder: Path) -> int:
    """The version after all that a model has."""
    return 1 + max((int(one.name) for one in folder.iterdir() if VERSION.fullmatch(one.name)), default=0)


def file_entries(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """What the manifest says of each file."""
    return {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in files.items()
    }


def npz(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as a compressed npz archive whose bytes depend on nothing but them."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array, order="C"), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", ZIP_DATE)
            file.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return archive.getvalue()


def write_directory(
    target: Path, files: Mapping[str, bytes], manifest: Manifest, *, force: bool, check: Callable[[Path], None]
) -> None:
    """Write, check, and put in place. `check` is given the finished directory before it has its name, and
    refuses it by raising. Raises SettingsFault and whatever `check` raises.
    """
    parent = target.parent
    made = [folder for folder in (parent, parent.parent) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # Hidden, so that a server that watches the folder does not take it for a version.
        beside = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}-"))
    except OSError as fault:
        raise SettingsFault(f"{parent}: expected a folder to write into: {fault.strerror}") from fault
    try:
        for name, content in files.items():
            (beside / name).write_bytes(content)
        (beside / MANIFEST_FILE).write_text(manifest.to_json())
        # mkdtemp's folder is the writer's alone; a server may run as another user.
        beside.chmod(0o755)
        check(beside)
        _put_in_place(beside, target, force=force)
    except OSError as fault:
        raise SettingsFault(f"{target}: cannot be written: {fault.strerror}") from fault
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _put_in_place(beside: Path, target: Path, *, force: bool) -> None:
    """Rename; with force, the old directory steps aside first and comes back if the rename fails."""
    if not target.exists():
        beside.rename(target)
        return
    if not force:
        raise SettingsFault(f"{target}: exists; it was made meanwhile")
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-"))
    try:
        target.rename(aside / "old")
        try:
            beside.rename(target)
        except OSError:
            (aside / "old").rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
