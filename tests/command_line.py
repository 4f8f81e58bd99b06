"""What the tests on real models share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run

Answer = tuple[int, dict[str, Any]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command with --json: exit code and document."""

    def run_json(*words: str | Path) -> Answer:
        capsys.readouterr()
        code = run([*(str(word) for word in words), "--json"])
        return code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    return run_json
