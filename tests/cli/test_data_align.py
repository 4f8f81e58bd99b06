"""`data align`: a long recording and its transcript, as a user runs it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tests.audio.test_segment import RATE, recording

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.alignment import judge
from moonshine_tune.data.alignment import run as alignment
from moonshine_tune.demo.data import TWO_CITIES_SPANS
from moonshine_tune.registry.wheel import WheelAssets

Ask = Callable[..., tuple[int, dict[str, Any]]]
SENTENCES = ["The first sentence is here.", "Another one follows it.", "Then comes the third.",
             "Nobody expects a fourth."]  # fmt: skip
CITIES = " ".join(text for _, _, text in TWO_CITIES_SPANS)


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `talk.wav`, whose four sentences are recognized as they are written."""
    folder = tmp_path / "talks"
    folder.mkdir()
    parts = [part for _ in SENTENCES for part in (("speech", 9.0), ("pause", 0.8))]
    sf.write(folder / "talk.wav", recording(*parts), RATE)
    (folder / "talk.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    opened = SimpleNamespace(language="en")
    monkeypatch.setattr(alignment, "open_model", lambda *_, **__: opened)
    monkeypatch.setattr(
        alignment, "transcribe_spans", lambda _, spans, *__: SENTENCES[: len(spans)]
    )
    # Without likelihoods, the text is divided by letters alone.
    monkeypatch.setattr(alignment, "WordLikelihoods", lambda *_: None)
    monkeypatch.setattr(judge, "text_losses", lambda _, texts, *__: [[9.0, 1.0]] * len(texts))
    return folder


def test_a_transcript_becomes_utterances(
    talks: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    code, document = ask("data", "align", talks / "talk.wav", talks / "talk.txt", "--out", out)
    assert code == 0, capsys.readouterr().err
    utterances = read_manifest(out).utterances
    assert [item.text for item in utterances] == SENTENCES
    assert [item.id for item in utterances][:2] == ["talk-00001", "talk-00002"]
    assert [item.start for item in utterances] == pytest.approx([0, 9.4, 19.2, 29.0], abs=0.06)
    assert utterances[0].extra == {"agreement": 1.0}
    assert utterances[0].session == "talk"
    assert (document["kept"], document["left_out_file"], document["reasons"]) == (4, None, {})
    assert not (tmp_path / "out-left-out.jsonl").exists()


def test_what_is_left_out_is_listed_with_reasons(talks: Path, ask: Ask, tmp_path: Path) -> None:
    text = [*SENTENCES[:2], "Quite another thing is written at this place.", SENTENCES[3],
            "An epilogue follows that nobody has ever read aloud."]  # fmt: skip
    (talks / "talk.txt").write_text("\n".join(text), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    code, document = ask("data", "align", talks, "--out", out)
    assert code == 0
    assert [item.text for item in read_manifest(out).utterances] == [*SENTENCES[:2], SENTENCES[3]]
    lines = (tmp_path / "out-left-out.jsonl").read_text(encoding="utf-8").splitlines()
    listed = [json.loads(line) for line in lines]
    assert {item["reason"] for item in listed} == set(document["reasons"])
    assert any("epilogue" in item["text"] and item["reason"] == "not read" for item in listed)
    assert any(item.get("hypothesis") == SENTENCES[2] for item in listed)


def test_an_output_is_replaced_only_with_force(talks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["data", "align", str(talks), "--out", str(out)]
    assert run(command) == 0
    assert run(command) == 2
    assert run([*command, "--force"]) == 0
    assert run(["data", "align", str(talks), "--out", str(talks)]) == 2


def test_a_text_of_another_recording_is_refused(
    talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (talks / "other.txt").write_text("zygote kumquat " * 30, encoding="utf-8")
    sf.write(talks / "other.wav", sf.read(talks / "talk.wav")[0], RATE)
    out = tmp_path / "out.jsonl"
    command = ["data", "align", str(talks), "--out", str(out)]
    assert run(command) == 1
    error = capsys.readouterr().err
    assert "1 of 2 transcripts are not those of their recordings" in error
    assert "other.wav" in error
    assert "the text is another: 0% agrees" in error
    assert not out.exists()
    assert run([*command, "--skip-bad"]) == 0
    assert {item.session for item in read_manifest(out).utterances} == {"talk"}


@pytest.mark.parametrize(
    ("samples", "text", "message"),
    [
        (np.zeros(40 * RATE, np.float32), "words", "silence from its start to its end"),
        (np.zeros(0, np.float32), "words", "no samples"),
        (None, "", "the transcript is empty"),
        (None, "1\n00:00:01,000 --> 00:00:02,000\nHello\n", "has times already"),
    ],
)
def test_what_cannot_be_aligned_is_said_plainly(
    samples: Any, text: str, message: str, talks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if samples is not None:
        sf.write(talks / "talk.wav", samples, RATE)
    (talks / "talk.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out.jsonl"
    assert run(["data", "align", str(talks / "talk.wav"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "unexpected" not in error
    assert not out.exists()


@pytest.mark.real_model
def test_a_real_recording_gets_its_text(
    wheel_assets: WheelAssets, real_cache: Path, ask: Ask, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(os.environ, "MOONSHINE_TUNE_CACHE", str(real_cache))
    text = tmp_path / "cities.txt"
    text.write_text(f"A Tale of Two Cities, by Charles Dickens.\n\n{CITIES}", encoding="utf-8")
    out = tmp_path / "cities.jsonl"
    code, document = ask("data", "align", wheel_assets.two_cities, text, "--out", out)
    assert code == 0
    utterances = read_manifest(out).utterances
    assert document["kept_s"] > 0.9 * document["speech_s"]
    written = " ".join(item.text or "" for item in utterances)
    assert written in CITIES.replace("\n", " ")
    for item in utterances:
        words = set((item.text or "").split())
        spoken = " ".join(
            text
            for start, end, text in TWO_CITIES_SPANS
            if start < (item.end or 0) - 0.2 and end > (item.start or 0) + 0.2
        )
        assert words <= set(spoken.split())
