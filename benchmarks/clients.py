"""The clients of others, each in a folder of its own under build/interop: brought once, and again when what is asked
for has changed.
"""

import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1] / "build" / "interop"
INSTALL_S = 300.0

# perf_analyzer lies inside of these wheels; later ones need a newer C library than Debian 12 has.
PERF_ANALYZER_WHEEL = "tritonclient==2.46.0"
CUDA_WHEEL = "nvidia-cuda-runtime-cu12==12.9.79"
# Debian's; nothing that pip knows brings it.
B64, B64_PACKAGE = "libb64.so.0d", "libb64-0d"


class Unavailable(Exception):
    """A client cannot be had here; the message says why."""


def tritonclient() -> Path:
    """The interpreter of an environment with tritonclient's newest release. Raises Unavailable."""
    directory = ROOT / "tritonclient"
    if not _is_ready(directory, "tritonclient[grpc]"):
        _run(sys.executable, "-m", "venv", "--clear", str(directory))
        _run(str(directory / "bin/python"), *_PIP, "install", "tritonclient[grpc]")
        _finish(directory, "tritonclient[grpc]")
    return directory / "bin/python"


def perf_analyzer() -> tuple[Path, Path]:
    """The program, and the folder of the libraries that it needs. Raises Unavailable."""
    directory = ROOT / "perf_analyzer"
    asked = f"{PERF_ANALYZER_WHEEL} {CUDA_WHEEL} {B64_PACKAGE}"
    if not _is_ready(directory, asked):
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise Unavailable(f"perf_analyzer is for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
        shutil.rmtree(directory, ignore_errors=True)
        downloads = directory / "downloads"
        downloads.mkdir(parents=True)
        _run(sys.executable, *_PIP, "download", "--no-deps", "--dest", str(downloads), PERF_ANALYZER_WHEEL, CUDA_WHEEL)
        for wheel in downloads.glob("*.whl"):
            _take(wheel, ("bin/perf_analyzer", "libcudart.so.12"), directory)
        (directory / "perf_analyzer").chmod(0o755)
        _bring_b64(directory, downloads)
        shutil.rmtree(downloads)
        _finish(directory, asked)
    return directory / "perf_analyzer", directory


# Not for long where there is no network: these tests are then skipped.
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10")


def _bring_b64(directory: Path, downloads: Path) -> None:
    found = [place for folder in ("/usr/lib", "/lib") for place in Path(folder).rglob(B64)]
    if not found:
        if shutil.which("apt-get") is None:
            raise Unavailable(f"perf_analyzer needs {B64} (Debian package {B64_PACKAGE})")
        _run("apt-get", "download", "-o", "APT::Sandbox::User=root", B64_PACKAGE, cwd=downloads)
        (package,) = downloads.glob("*.deb")
        _run("dpkg-deb", "--extract", str(package), str(downloads))
        found = list(downloads.rglob(B64))
    shutil.copy(found[0], directory / B64)


def _take(wheel: Path, endings: tuple[str, ...], directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(endings):
                (directory / Path(name).name).write_bytes(archive.read(name))


def _is_ready(directory: Path, asked: str) -> bool:
    stamp = directory / "installed.txt"
    return stamp.exists() and stamp.read_text() == f"{sys.version}\n{asked}\n"


def _finish(directory: Path, asked: str) -> None:
    (directory / "installed.txt").write_text(f"{sys.version}\n{asked}\n")


def _run(*command: str, cwd: Path | None = None) -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S, cwd=cwd)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]}: not done within {INSTALL_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith(("ERROR", "E:"))]
        raise Unavailable((lines or error.stderr.splitlines() or [f"status {error.returncode}"])[0]) from error
