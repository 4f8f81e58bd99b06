"""`train` on the command line with too little memory: refused, or fitted with --fit."""

import json
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run

_PROCESS_GIB = 600 / 1024


def _words(model: Path | str, speech: Path, out: Path, *settings: str) -> list[str]:
    chosen = [word for setting in settings for word in ("--set", setting)]
    return [
        "train", "--model", str(model), "--train", str(speech / "train.jsonl"),
        "--dev", str(speech / "dev.jsonl"), "--out", str(out), "--set", "device.name=cpu", *chosen,
    ]  # fmt: skip


def test_a_preset_that_cannot_fit_is_refused_before_its_model_is_fetched(
    speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words("medium", speech_folder, tmp_path / "run", "device.budget_gib=1")
    code = run([*words, "--preset", "medium-pilot", "--json"])
    shown = capsys.readouterr()
    assert code == 3
    assert "medium would need" in shown.err and "of 1.00 GiB: requested" in shown.err
    assert "--fit" in shown.err
    assert json.loads(shown.out.splitlines()[-1])["error"]["exit_code"] == 3
    assert not (tmp_path / "run").exists()


def test_if_nothing_fits_the_smallest_estimate_is_reported(
    speech_folder: Path, saved_v1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every saving is estimated: from a batch of two, and without replay, they are fewer.
    words = _words(
        saved_v1, speech_folder, tmp_path / "run", "device.budget_gib=0.2",
        "train.batch_size=2", "data.replay=none",
    )  # fmt: skip
    assert run([*words, "--fit"]) == 3
    shown = capsys.readouterr().err
    assert "does not fit 0.2 GiB" in shown and "with every saving" in shown
    assert "smaller model" in shown


def test_fit_says_what_it_chose_and_why_and_trains(
    speech_folder: Path, saved_v1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Eight of these small clips need more than that, four less.
    budget = _PROCESS_GIB + 2.7 / 1024
    words = _words(
        saved_v1, speech_folder, tmp_path / "run", f"device.budget_gib={budget}",
        "adapter.sites=all", "train.steps=2", "select.every_steps=2", "data.replay=none",
    )  # fmt: skip
    assert run(words) == 3
    assert "would need" in capsys.readouterr().err
    assert run([*words, "--fit"]) in (0, 1)
    shown = capsys.readouterr()
    assert "memory: train.batch_size=4, train.accumulation=2 (about the same" in shown.err
    assert "GiB expected at the peak" in shown.err
    record: dict[str, Any] = json.loads((tmp_path / "run" / "run.json").read_text())
    train = record["settings"]["train"]
    assert train["batch_size"] * train["accumulation"] == 8 > train["batch_size"]
    assert record["sources"]["train.batch_size"] == "--fit"
