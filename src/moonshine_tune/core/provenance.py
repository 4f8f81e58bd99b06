"""Provenance of an artifact: versions, platform, git state and command.

Artifacts are published, so none of this holds a host name, a user name, a home path or a secret.
"""

import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from moonshine_tune.core.secrets import mask_words
from moonshine_tune.core.version import VERSION

CORE_PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy",
    "onnxruntime", "moonshine-voice", "soundfile", "soxr", "jiwer", "whisper-normalizer",
)  # fmt: skip


def package_version(name: str) -> str | None:
    """Version of an installed distribution without importing it; None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Versions of this program, Python and the core packages."""
    own = {"moonshine-tune": VERSION, "python": platform.python_version()}
    return own | {name: package_version(name) for name in CORE_PACKAGES}


def platform_summary() -> dict[str, str]:
    """Operating system and processor family; nothing that identifies the machine."""
    return {"system": platform.system(), "release": platform.release(), "arch": platform.machine()}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the git checkout that holds `folder`, and whether it is dirty; None without one."""
    if shutil.which("git") is None:
        return None

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=10
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain"))}


def command_line() -> list[str]:
    """The command as typed, with the home folder written as ~ and the program by its name.

    Passwords and tokens are written as ***.
    """
    home = str(Path.home())
    words = mask_words(sys.argv[1:])
    # A file name that is not UTF-8 cannot be recorded as it is.
    words = [word.encode("utf-8", "backslashreplace").decode() for word in words]
    return ["moonshine-tune", *(word.replace(home, "~") for word in words)]
