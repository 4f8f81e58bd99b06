"""What an artifact says about how it came to be: versions, git state, fingerprints.

No host name, user name, home path or secret ever enters here: artifacts are published.
"""

import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from moonshine_tune import __version__

CORE_PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy",
    "onnxruntime", "moonshine-voice", "soundfile", "soxr", "jiwer", "whisper-normalizer",
)  # fmt: skip

# The password of a URL, before the host or as a parameter.
_PASSWORD = re.compile(r"(://[^/:@\s]*:)[^/@\s]+(?=@)|([?&]password=)[^&\s]+")


def package_version(name: str) -> str | None:
    """Version of an installed distribution, or None, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Versions of this program, Python and the core packages."""
    found: dict[str, str | None] = {
        "moonshine-tune": __version__,
        "python": platform.python_version(),
    }
    found.update({name: package_version(name) for name in CORE_PACKAGES})
    return found


def platform_summary() -> dict[str, str]:
    """Operating system and processor family, without anything that names the machine."""
    return {"system": platform.system(), "release": platform.release(), "arch": platform.machine()}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that holds `folder`, or None outside of one."""
    if shutil.which("git") is None:
        return None

    def ask(*words: str) -> str | None:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=10
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}


def command_line() -> list[str]:
    """The command as typed, with the home folder written as ~ and the program by its name.

    The password in a URL is written as ***.
    """
    home = str(Path.home())
    words = [_PASSWORD.sub(r"\1\2***", word) for word in sys.argv[1:]]
    return ["moonshine-tune", *(word.replace(home, "~") for word in words)]
