"""A small random streaming model overfits four clips, and keeps them when saved and merged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from moonshine_tune.cli.app import run

pytestmark = pytest.mark.usefixtures("one_thread")

_TEXTS = ("one", "best of times", "cities", "all")
_SETTINGS = [
    "adapter.sites=all", "adapter.rank=32", "adapter.alpha=32", "train.steps=200",
    "train.batch_size=4", "train.learning_rate=6e-3", "train.encoder_learning_rate=3e-3",
    "select.every_steps=50", "select.patience=9", "device.name=cpu",
    # The small model has positions for a few seconds.
    "data.replay=none",
]  # fmt: skip


def _manifest(folder: Path, name: str, make_clip: Callable[..., Any]) -> Path:
    """Four clips of one voice; each manifest has recordings of its own."""
    lines = []
    for index, text in enumerate(_TEXTS):
        clip = f"{name}-{index}.wav"
        # One token per letter: decoding is limited to 6.5 per second.
        soundfile.write(folder / clip, make_clip(0.6 + len(text) / 5, index), 16_000)
        record = {"id": f"{name}-{index}", "audio": clip, "text": text, "speaker": "me"}
        lines.append(json.dumps(record) + "\n")
    path = folder / f"{name}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*words, "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return document


def test_four_clips_are_learnt_and_kept_after_save_reload_and_merge(
    saved_streaming: Path,
    make_clip: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = _manifest(tmp_path, "train", make_clip)
    dev = _manifest(tmp_path, "dev", make_clip)
    chosen = [word for setting in _SETTINGS for word in ("--set", setting)]
    trained = _json(
        capsys, "train", "--model", str(saved_streaming), "--train", str(clips), "--dev", str(dev),
        "--out", str(tmp_path / "run"), *chosen,
    )  # fmt: skip
    assert trained["baseline"]["dev_wer"] >= 100
    assert trained["best"]["dev_wer"] == 0
    assert trained["last_loss"] < trained["first_loss"] / 4
    score = ("evaluate", "--device", "cpu", "--manifest", str(clips))
    reloaded = _json(
        capsys, *score, "--model", str(saved_streaming), "--adapter", str(tmp_path / "run")
    )
    assert (reloaded["wer"], reloaded["utterances"]) == (0, 4)
    assert reloaded["base"]["wer"] >= 100
    _json(capsys, "merge", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "merged"))
    merged = _json(capsys, *score, "--model", str(tmp_path / "merged"))
    assert (merged["wer"], merged["utterances"]) == (0, 4)
