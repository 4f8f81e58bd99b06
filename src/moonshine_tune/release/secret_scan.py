"""A last look at every file of a package for what must stay on this machine."""

import os
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.release.archive import files_below

_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "APIKEY",
                 "ACCESS_KEY", "PRIVATE_KEY")  # fmt: skip
_MIN_SECRET_LENGTH = 8


def refuse_secrets(folder: Path) -> None:
    """Search every file for this machine's home folder and the environment's secrets.

    Public records take nothing of the kind; this guards what is copied as it is, and what a person
    wrote into a setting.

    Raises:
        ProblemsError: something private is in a file; its value is not shown.
    """
    private = {
        value.encode(): f"the value of {name}"
        for name, value in os.environ.items()
        if any(word in name.upper() for word in _SECRET_WORDS) and len(value) >= _MIN_SECRET_LENGTH
    }
    home = str(Path.home())
    if len(home) > 1:
        private[(home + os.sep).encode()] = "the path of your home folder"
    problems = [
        f"{name} holds {description}"
        for name in files_below(folder)
        for description in _search(folder / name, private)
    ]
    if problems:
        raise ProblemsError(
            "nothing was packed: this would publish private data",
            problems,
            hint="find where these words come from (a setting, a name), and remove them there",
        )


def _search(path: Path, private: Mapping[bytes, str]) -> list[str]:
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return [text for value, text in private.items() if content.find(value) >= 0]
