"""Names that become parts of paths.

A name that a person chose is refused where it is no safe part of a path. Files that are named after
data (ids, recordings) have hashes as names instead, so that any data can be read.
"""

import os
import re
import unicodedata
from pathlib import Path

MAX_NAME = 80
# Names of devices on Windows, whatever their ending: a folder with them cannot be copied there.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_RULE = "letters, digits and - _ . are allowed"


def name_problem(name: str) -> str | None:
    """Why a chosen name cannot be part of a path, as the end of a sentence; None where it can.

    Letters and digits of any script are allowed: they are safe in a path.
    """
    if not name:
        return "is empty"
    # Letters, digits, and marks: the vowels of Hindi and Thai are marks.
    if wrong := [c for c in name if c not in "-_." and unicodedata.category(c)[0] not in "LNM"]:
        return f"has {wrong[0]!r}: {_RULE}"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode's composed form (NFC), which file systems change"
    if name.startswith(".") or name.endswith("."):
        return "begins or ends with a dot"
    if len(name.encode()) > MAX_NAME:
        return f"has more than {MAX_NAME} bytes"
    if is_device_name(name):
        return "is reserved for a device on Windows"
    return None


def is_device_name(name: str) -> bool:
    """Whether Windows takes the name for a device, whatever its ending."""
    return _DEVICE.fullmatch(name) is not None


def home_expanded(path: str | Path) -> Path:
    """The path with `~` and `~name` replaced by a home folder; a name of nobody stays as it is.

    `Path.expanduser` fails on such a name, in files of other people too.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def real_path(path: Path) -> Path:
    """The path with links followed; a link that leads to itself stays as it is.

    `Path.resolve` raises a RuntimeError for one, before Python 3.13. Whoever opens it gets an error
    of the file.
    """
    return Path(os.path.realpath(path))


def short_label(text: str, default: str) -> str:
    """What can be kept of a text in a name, for people: something beside it tells names apart."""
    kept = re.sub(r"[^\w.-]+", "-", text).encode()[:MAX_NAME].decode("utf-8", "ignore")
    return kept.strip("-.") or default
