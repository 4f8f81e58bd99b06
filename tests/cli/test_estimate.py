"""`estimate` through the real entry point."""

import json
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run

_SHAPE = ["--clip-s", "5", "--device", "cpu", "--audio-hours", "0.2"]
_TINY = ["estimate", "--model", "tiny", *_SHAPE]


@pytest.fixture
def small(saved_v1: Path) -> list[str]:
    """The same of a small random model, which is counted in a third of the time."""
    return ["estimate", "--model", str(saved_v1), *_SHAPE]


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_it_reports_the_peak_by_phase_and_part(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = _json(capsys, *_TINY, "--budget-gib", "6")
    assert code == 0
    assert document["fits"] is True
    assert document["model_parameters"] == 27_092_736
    assert set(document["phases"]) == {"load", "prepare", "replay", "step", "score"}
    for parts in document["phases"].values():
        assert parts["total"] == sum(size for name, size in parts.items() if name != "total")
    assert document["peak_bytes"] == max(parts["total"] for parts in document["phases"].values())
    assert document["peak_bytes"] < document["budget_bytes"] == 6 * 2**30
    assert document["longest_clip_s"] >= 5
    assert document["largest_batch"] >= 8
    assert any("tokens" in remark for remark in document["assumed"])


def test_the_text_is_a_table_and_a_verdict(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*small, "--budget-gib", "6", "--tokens", "20"]) == 0
    text = capsys.readouterr().out
    for words in ("weights", "optimizer", "total", "fits 6.00 GiB", "batch 8 × 5 s × 20 tokens"):
        assert words in text


def test_a_run_that_does_not_fit_exits_with_1(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = _json(capsys, *small, "--budget-gib", "0.5")
    assert code == 1
    assert document["fits"] is False
    assert document["largest_batch"] == 0


def test_settings_reach_the_estimate(
    small: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text("train: {batch_size: 3}\nadapter: {rank: 4}\n", encoding="utf-8")
    code, document = _json(
        capsys, *small, "--config", str(settings), "--set", "adapter.sites=all", "--budget-gib", "9"
    )
    assert code == 0
    shape = document["shape"]
    assert (shape["batch_size"], shape["rank"], shape["sites"]) == (3, 4, "all")
    assert "prepare" in document["phases"], "the input of the encoder's layers is stored"
    code, document = _json(
        capsys, *small, "--config", str(settings), "--set", "device.state_cache_mb=0",
        "--budget-gib", "9",
    )  # fmt: skip
    assert code == 0 and "prepare" not in document["phases"]


def test_of_a_local_checkpoint_only_the_configuration_is_read(
    capsys: pytest.CaptureFixture[str], saved_streaming: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((saved_streaming / "config.json").read_bytes())
    (copy / "model.safetensors").write_bytes(b"never read")
    code, document = _json(
        capsys, "estimate", "--model", str(copy), "--clip-s", "2", "--budget-gib", "2",
        "--device", "mps", "--audio-hours", "0.1",
    )  # fmt: skip
    assert code == 0
    assert document["model_parameters"] < 1_000_000
    assert document["device"] == "mps"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "tinny"], "did you mean tiny"),
        (["--device", "tpu"], "no device is called 'tpu'"),
        (["--budget-gib", "-1"], "a budget of -1"),
        (["--clip-s", "0"], "a clip of 0"),
        (["--preset", "huge"], "no preset is called 'huge'"),
        (["--set", "train.batch=3"], "train.batch"),
        (["--model", "."], "not a checkpoint folder"),
    ],
)
def test_wrong_requests_exit_with_2_and_a_plain_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["estimate", "--device", "cpu", "--budget-gib", "4", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "--help"]) == 0
    assert "moonshine-tune estimate --preset" in capsys.readouterr().out
