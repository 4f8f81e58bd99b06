"""A second process for tests of locks and signals: it runs code until a line lets it go on."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_HEAD = """
import os, sys
from pathlib import Path
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.files import complete_folder, complete_file, write_text_atomic
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def other_process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has come to the `wait()` of its code; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HEAD + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
