"""`report` as a person calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_tune.cli import app as cli
from moonshine_tune.cli import report
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import score_utterance


@pytest.fixture(autouse=True)
def _registered() -> None:
    if "report" not in {command.name for command in cli.app.registered_commands}:
        report.register(cli.app)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "eval one"
    folder.mkdir()
    item = score_utterance("u", "one two", "one to", normalizer_for("spelled-1"))
    (folder / "hypotheses.jsonl").write_text(json.dumps(item.to_record()) + "\n")
    return folder


def test_writes_into_the_folder_and_tells_where(
    evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["report", str(evaluation)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(evaluation / "report.html")
    assert "result.json is not there" in out
    assert (evaluation / "report.html").read_text().startswith("<!doctype html>")


def test_json_is_one_document(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = evaluation.parent / "new" / "a.html"
    assert cli.run(["report", str(evaluation), "--out", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["report"] == str(out)
    assert document["kind"] == "evaluation"
    assert document["num_bytes"] == out.stat().st_size
    assert "result.json is not there" in document["missing"]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_wrong_folder_is_a_wrong_request(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.run(["report", str(tmp_path / name), "--json"]) == 2
    shown = capsys.readouterr()
    assert "hint: name a folder" in shown.err
    assert json.loads(shown.out)["error"]["exit_code"] == 2
    assert not (tmp_path / "empty" / "report.html").exists()


def test_out_in_a_folder_that_cannot_be_made(evaluation: Path) -> None:
    blocked = evaluation / "hypotheses.jsonl" / "a.html"
    assert cli.run(["report", str(evaluation), "--out", str(blocked)]) == 2


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "--help"]) == 0
    assert "Example:\n    moonshine-tune report" in capsys.readouterr().out


def test_loads_no_torch(evaluation: Path) -> None:
    """A report is made where a model cannot be: on a laptop without torch, in seconds."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from moonshine_tune.core.progress import SilentProgress\n"
        "from moonshine_tune.report.page import write_report\n"
        f"write_report(Path({str(evaluation)!r}), None, SilentProgress())\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_imports_nothing_heavy() -> None:
    heavy = "{'jinja2', 'numpy', 'jiwer'}"
    code = f"import sys, moonshine_tune.cli.report; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
