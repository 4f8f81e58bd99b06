"""Cutting long recordings without transcripts into clips."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.audio.test_segment import RATE, recording
from tests.corpus_folder import import_folder

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data


def write(path: Path, *parts: tuple[str, float]) -> Path:
    path.parent.mkdir(exist_ok=True)
    sf.write(path, recording(*parts), RATE)
    return path


LONG = (("speech", 6.0), ("pause", 0.5), ("speech", 6.0), ("pause", 8.0), ("speech", 4.0))


def test_long_recordings_become_spans_and_short_ones_stay(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "long.wav", *LONG)
    imported = import_folder(tmp_path, {}, {"short.wav": 2.0}, max_clip_s=10.0)
    long, short = imported.utterances[:3], imported.utterances[3]
    assert [item.id for item in long] == ["long-00001", "long-00002", "long-00003"]
    assert {item.audio.name for item in long} == {"long.wav"}
    assert {item.session for item in long} == {"long"}
    assert [item.start for item in long] == pytest.approx([0.0, 6.25, 20.2], abs=0.06)
    assert [item.end for item in long] == pytest.approx([6.25, 12.8, 24.5], abs=0.06)
    assert all(item.text is None for item in imported.utterances)
    assert (short.id, short.start, short.duration) == ("short", None, 2.0)
    result = imported.result
    assert (result.rows, result.kept, result.clips) == (2, 2, 4)
    assert result.to_record()["clips"] == 4
    assert "1 long recordings are cut at their pauses; 0.1 min of silence" in imported.remarks


def test_one_recording_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "long.wav", *LONG)
    write(tmp_path / "other.wav", ("speech", 1.0))
    out = tmp_path / "out.jsonl"
    result = import_data(ImportRequest(path, out, max_clip_s=10.0), SilentProgress())
    assert result.recordings.total == 1
    assert len(read_manifest(out, require_text=False).utterances) == 3


def test_transcripts_are_not_dropped_silently(tmp_path: Path) -> None:
    files, recordings = {"a.txt": "words"}, {"a.wav": 2.0}
    with pytest.raises(RequestError, match="these recordings have transcripts") as caught:
        import_folder(tmp_path, files, recordings, max_clip_s=10.0)
    assert "data align" in (caught.value.hint or "")
    imported = import_folder(tmp_path, files, recordings, max_clip_s=10.0, want_text=False)
    assert imported.texts == [None]


def test_silence_gives_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="1 silent"):
        import_folder(tmp_path, {}, {"empty.wav": 40.0}, max_clip_s=10.0)
    write(tmp_path / "corpus" / "long.wav", *LONG)
    result = import_folder(tmp_path, {}, {}, max_clip_s=10.0).result
    assert (result.rows, result.kept, result.reasons) == (2, 1, {"silent": 1})


def test_clips_can_be_copied(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "long.wav", *LONG)
    imported = import_folder(tmp_path, {}, {}, max_clip_s=10.0, audio_out=tmp_path / "copies")
    lengths = [sf.info(item.audio).duration for item in imported.utterances]
    assert lengths == pytest.approx([6.25, 6.55, 4.3], abs=0.1)
    assert np.all([item.start is None for item in imported.utterances])
