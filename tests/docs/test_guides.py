"""A reader follows the guides where the wheel is installed alone, as in `test_bare_install.py`."""

from pathlib import Path

import pytest
from tests.bare_install import run_blocks
from tests.documentation import DOCS, GUIDES

from moonshine_tune.runs.records import EvaluationRecord, RunRecord

pytestmark = [pytest.mark.real_model, pytest.mark.takes_minutes]


@pytest.mark.parametrize("page", GUIDES)
def test_the_blocks_of_a_guide_run_in_order(
    page: str, desk: Path, warm_bare: dict[str, str]
) -> None:
    run_blocks(page, desk, warm_bare)
    for run_folder in desk.glob("runs/*"):
        described = (DOCS / "reference" / "run-folder.md").read_text(encoding="utf-8")
        missing = [e.name for e in run_folder.iterdir() if f"`{e.name}" not in described]
        assert missing == [], "docs/reference/run-folder.md names every entry"
    for exported in desk.glob("*exported"):
        assert (exported / "decoder_model_merged.ort").is_file()
    if page.endswith("my-own-voice.md"):
        _goes_on_from_its_parent(desk)


def _goes_on_from_its_parent(desk: Path) -> None:
    """The next week's adapter is one of my voice, and is scored beside it."""
    record = RunRecord.read(desk / "runs" / "next-week" / "run.json")
    assert [Path(item.path).name for item in record.lineage] == ["my-voice"]
    scored = EvaluationRecord.read(desk / "eval" / "next-week" / "result.json")
    assert [item.side for item in scored.systems] == ["base", "parent", "adapted"]
