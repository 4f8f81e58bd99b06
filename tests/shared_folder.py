"""What is made once for all processes of a test run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def once(folder: Path) -> Iterator[bool]:
    """Hold a folder that several processes share; yields whether it has yet to be filled.

    The folder is emptied where an earlier process failed to fill it.
    """
    done = folder.with_name(folder.name + ".done")
    with FileLock(folder.with_name(folder.name + ".lock")):
        if done.exists():
            yield False
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield True
        done.touch()
