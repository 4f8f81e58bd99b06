"""The live view: what it draws, and that logs without a terminal stay plain lines."""

import io

import pytest
from rich.console import Console

from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.cli.live_view import LiveView, sparkline


def _draw(view: LiveView, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_sparklines_go_from_low_to_high() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3, 3]) == "▁▁▁"
    assert sparkline([]) == ""
    many = sparkline([float(value) for value in range(1000)], width=10)
    assert len(many) == 10
    assert (many[0], many[-1]) == ("▁", "█")


def test_the_view_shows_curves_memory_and_transcripts() -> None:
    view = LiveView()
    assert _draw(view) == ""
    view.add({"dev_wer": 40.0, "canary_wer": 5.0})
    for step in range(1, 5):
        values = {"loss": 1 / step, "step_seconds": 0.5, "memory_resident_mb": 900.0 + step}
        view.add(values | {"memory_device_mb": 0.0, "gradient_norm": 1.0})
    view.add({"dev_wer": 12.5})
    view.show_transcripts([("one two", "one too [bold]"), ("three", "three")])
    text = _draw(view)
    for piece in ("loss", "0.250", "2.00 steps/s", "904 MB", "12.50 %  (first 40.00, lowest 12.50)",
                  "one too [bold]", "█"):  # fmt: skip
        assert piece in text
    assert "device" not in text
    assert "gradient" not in text


def test_long_transcripts_push_nothing_aside_on_a_narrow_terminal() -> None:
    view = LiveView()
    for step in range(40):
        view.add({"dev_wer": 100.0 - step, "loss": 1.0 + step, "memory_resident_mb": 12_345.0})
    view.show_transcripts([("descend " * 30, "the send " * 30)])
    lines = _draw(view, width=80).splitlines()
    assert len(lines) == 5  # each row in one line
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert any("(first 100.00, lowest 61.00)" in line for line in lines)
    assert lines[-2].startswith("reference  ")
    assert lines[-1].startswith("hypothesis  ")
    assert "…" in lines[-1]


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    with progress.stage("training", 2) as stage:
        stage.advance(1)
        progress.figures(1, {"loss": 1.0})
        progress.transcripts([("a", "b")])
        progress.say("step 1: dev WER 3.00")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "step 1: dev WER 3.00\n"


def test_on_a_terminal_the_view_is_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = TerminalProgress()
    with progress.stage("training", 2) as stage:
        progress.figures(1, {"loss": 0.625, "memory_resident_mb": 512.0})
        progress.transcripts([("roger wilco", "roger will go")])
        stage.advance(1, "note")
    shown = screen.getvalue()
    for piece in ("training", "1/2", "0.625", "512 MB", "roger will go"):
        assert piece in shown
