"""What an artifact records of the command that made it."""

import sys
from pathlib import Path

import pytest

from moonshine_tune.core.provenance import command_line


@pytest.mark.parametrize(
    ("word", "recorded"),
    [
        ("postgresql+psycopg://me:secret@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("--storage=postgresql://:secret@host/db", "--storage=postgresql://:***@host/db"),
        ("postgresql://me@host/db?password=secret&a=1", "postgresql://me@host/db?password=***&a=1"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        (f"{Path.home()}/a.jsonl", "~/a.jsonl"),
    ],
)
def test_a_command_is_recorded_without_secrets(
    monkeypatch: pytest.MonkeyPatch, word: str, recorded: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/moonshine-tune", "ablate", word])
    assert command_line() == ["moonshine-tune", "ablate", recorded]
