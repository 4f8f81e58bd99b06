"""A column called `channel`, and other names that the program uses itself."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tests.messages import Messages

from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import RESERVED_KEYS, Utterance, read_manifest
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`call.wav` with 0.1 in its first channel and 0.3 in its second, and `mono.wav` with 0.2."""
    made = tmp_path / "rec"
    made.mkdir()
    sf.write(made / "call.wav", np.tile([0.1, 0.3], (8000, 1)), 16_000)
    sf.write(made / "mono.wav", np.full(8000, 0.2), 16_000)
    return made


def imported(folder: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Utterance, ...]:
    table, out = folder.parent / "t.jsonl", folder.parent / "out.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    request = ImportRequest(folder, out, table=table, force=True, **options)
    import_data(request, SilentProgress())
    return read_manifest(out).utterances


def call(*channels: object) -> list[dict[str, Any]]:
    return [
        {"file": "call.wav", "text": f"text {n}", "channel": channel}
        for n, channel in enumerate(channels)
    ]


@pytest.mark.parametrize(
    "channels",
    [(1, 2), (0, 1), ("0", "1"), ("A", "B"), ("left", "right"), ("1.0", "2.0"), ("ch1", "ch2")],
)
def test_sides_of_a_call_are_cut_out(channels: tuple[object, object], folder: Path) -> None:
    copies = folder.parent / "copies"
    utterances = imported(folder, call(*channels), audio_out=copies)
    levels = [round(float(load_audio(item.audio).mean()), 2) for item in utterances]
    assert levels == [0.1, 0.3]
    assert all("channel" not in item.extra for item in utterances)
    with pytest.raises(ProblemsError, match="--audio-out"):
        imported(folder, call(*channels))


@pytest.mark.parametrize("channel", ["bbc", "youtube/astro", "", "A1", None, [1], 7, "1", 0])
def test_a_channel_of_a_mono_recording_is_a_field(channel: object, folder: Path) -> None:
    rows = [{"file": "mono.wav", "text": "go on", "channel": channel}]
    for options in ({}, {"audio_out": folder.parent / "copies"}):
        (utterance,) = imported(folder, rows, **options)
        assert utterance.extra.get("channel") == channel


def test_words_are_a_field_of_any_recording(folder: Path) -> None:
    first, second = imported(folder, call("bbc", "2"), audio_out=folder.parent / "copies")
    assert (first.extra["channel"], second.extra["channel"]) == ("bbc", "2")
    assert round(float(load_audio(first.audio).mean()), 2) == 0.2


def test_words_beside_several_channels_are_named(folder: Path) -> None:
    table = folder.parent / "words.csv"
    table.write_text("file,text,channel\ncall.wav,go on,agent\n", encoding="utf-8")
    progress = Messages()
    import_data(ImportRequest(folder, folder.parent / "out.jsonl", table=table), progress)
    assert any("has words (agent)" in line and "averaged" in line for line in progress.lines)


def test_unclear_and_impossible_channels_are_plain_errors(folder: Path) -> None:
    copies = folder.parent / "copies"
    with pytest.raises(ProblemsError, match="every row has 1") as caught:
        imported(folder, call(1, 1), audio_out=copies)
    assert "--channel 1" in caught.value.problems[0] and "--channel 2" in caught.value.problems[1]
    first, _ = imported(folder, call(1, 1), audio_out=copies, channel=2)
    assert round(float(load_audio(first.audio).mean()), 2) == 0.3
    with pytest.raises(ProblemsError, match=r"channel 3, but call\.wav has 2 channels"):
        imported(folder, call(1, 3), audio_out=copies)
    with pytest.raises(ProblemsError, match=r"channel 2, but call\.wav has 2 channels"):
        imported(folder, call(0, 2), audio_out=copies)


def test_ids_that_repeat_over_recordings_become_a_field(folder: Path) -> None:
    rows = [
        {"id": "s1", "file": "call.wav", "text": "go on"},
        {"id": "s1", "file": "mono.wav", "text": "go on"},
        {"id": "s2", "file": "mono.wav", "text": "stop", "start": 0.1},
    ]
    utterances = imported(folder, rows)
    assert [(item.id, item.extra) for item in utterances] == [
        ("call", {"source_id": "s1"}), ("mono", {"source_id": "s1"}),
        ("mono-2", {"source_id": "s2"}),
    ]  # fmt: skip
    # The recording's id on each of its spans; a name of its own; a field that exists already.
    spans = [
        {"uttid": "r", "file": "mono.wav", "text": f"{n}", "start": n / 10, "source_id": 1}
        for n in range(3)
    ]
    assert [item.extra["uttid"] for item in imported(folder, spans)] == ["r"] * 3
    again = imported(folder, [row | {"id": row.pop("uttid")} for row in spans])
    assert [item.extra for item in again] == [{"source_id": 1, "source_source_id": "r"}] * 3
    assert [item.id for item in imported(folder, rows[1:])] == ["s1", "s2"]


def test_no_name_of_a_field_and_no_value_is_a_crash(folder: Path) -> None:
    names = [*RESERVED_KEYS, "channel", "source_sha256", "source_id", "line", "extra", "audio_out",
             "problem", "values", "", "a b", "\ud800", "__class__", "None"]  # fmt: skip
    values = ["", "x", "two words", "1", 0, 1, -1, 2, 1.5, None, True, [], {}, [1], {"a": [None]},
              float("nan"), float("inf"), "\ud800", "call.wav", "mono.wav", 10**400,
              "9" * 5000]  # fmt: skip
    rng = random.Random(0)
    for _ in range(300):
        keys = rng.sample(names, k=rng.randrange(4))
        rows = [
            {"file": rng.choice(["call.wav", "mono.wav"]), "text": "go on"}
            | {key: rng.choice(values) for key in keys}
            for _ in range(3)
        ]
        options = {"audio_out": folder.parent / "copies"} if rng.random() < 0.3 else {}
        try:
            imported(folder, rows, skip_bad=rng.random() < 0.5, **options)
        except RequestError as error:
            assert error.message
