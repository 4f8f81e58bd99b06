"""The packages that this program needs: installed versions, and whether they load."""

import re
import subprocess
import sys
from dataclasses import dataclass

from moonshine_tune.core.provenance import package_version

_IMPORT_LIMIT_S = 180


@dataclass(frozen=True)
class Package:
    """A package: its least version, its role, and whether training needs it."""

    name: str
    minimum: str
    role: str
    needed: bool = True


PACKAGES: tuple[Package, ...] = (
    Package("torch", "2.8", "arithmetic"),
    Package("transformers", "5.15", "the models"),
    Package("peft", "0.17", "LoRA"),
    Package("accelerate", "1.10", "devices, accumulation"),
    Package("tokenizers", "0.21", "text to tokens"),
    Package("safetensors", "0.5", "weights on disk"),
    Package("numpy", "1.26", "audio samples"),
    Package("soundfile", "0.13", "decoding audio"),
    Package("soxr", "0.5", "resampling"),
    Package("jiwer", "4.0", "counting errors"),
    Package("whisper-normalizer", "0.1.12", "English normalizer"),
    Package("pydantic", "2.9", "settings"),
    Package("jinja2", "3.1", "report pages"),
    Package("markupsafe", "2.1", "report pages"),
    Package("pyyaml", "6.0", "settings files"),
    Package("psutil", "6.0", "memory readings"),
    Package("platformdirs", "4.2", "location of the cache"),
    Package("filelock", "3.12", "locks of the cache"),
    Package("huggingface-hub", "0.34", "the model hub"),
    Package("rich", "13.9", "progress bars"),
    Package("tensorboard", "2.18", "curves"),
    Package("praatio", "6.2", "TextGrid cues", needed=False),
    Package("pysubs2", "1.8", "SRT and VTT cues", needed=False),
    Package("onnxruntime", "1.22", "rebuild and export", needed=False),
    Package("moonshine-voice", "0.1.5", "the runtime, for evaluation as deployed", needed=False),
    Package("espeakng-loader", "0.2.4", "data synth and the demo", needed=False),
    Package("pip", "24.0", "fetching tiny from the package index", needed=False),
    Package("optuna", "5.0", "ablate", needed=False),
)

REPLACED: tuple[tuple[str, str], ...] = (
    ("datasets", "not needed: manifests are JSON Lines files that are read directly"),
    ("librosa", "not needed: soundfile decodes and soxr resamples"),
)
"""Packages that similar programs need, and what this one uses instead."""


@dataclass(frozen=True)
class PackageState:
    """A package and its installed version; None if it is missing."""

    package: Package
    version: str | None

    @property
    def new_enough(self) -> bool:
        """Whether at least the least version is installed."""
        return self.version is not None and _numbers(self.version) >= _numbers(self.package.minimum)


def installed_packages() -> tuple[PackageState, ...]:
    """All packages with their installed versions, from their metadata: nothing is imported."""
    return tuple(PackageState(package, package_version(package.name)) for package in PACKAGES)


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without suffixes such as rc1 or +cpu."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def why_not_importable(module: str) -> str | None:
    """Why `import module` fails in a new Python process; None if it works.

    A child process, because a broken native library can kill the process that loads it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True, text=True, check=False, timeout=_IMPORT_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not finished after {_IMPORT_LIMIT_S} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the process died of signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}"
