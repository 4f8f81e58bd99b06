"""Every reader of files takes or refuses damaged and hostile ones; `benchmarks.fuzz` has more."""

import random
from pathlib import Path

import pytest
from benchmarks.fuzz import Outcome, Reader, check, readers

_READERS = readers()


@pytest.mark.parametrize("reader", _READERS, ids=[reader.name for reader in _READERS])
def test_a_reader_has_no_fault(reader: Reader, tmp_path: Path) -> None:
    outcome = Outcome()
    for number in range(12):
        data = reader.make(random.Random(f"tests {reader.name} {number}"))
        check(reader, data, tmp_path / reader.ending, outcome)
    assert outcome.faults == []
    assert outcome.read + outcome.refused == 12
