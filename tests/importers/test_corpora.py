"""Corpora of other programs, cues beside long recordings, `datasets` folders, and copies."""

import gzip
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers import convert
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import ImportResult, import_data
from moonshine_tune.importers.transcripts.read import read_transcript


def _clip(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).normal(0, 0.1, (int(seconds * rate), channels))
    sf.write(path, noise, rate)
    return path


def _import(folder: Path, **options: Any) -> tuple[ImportResult, list[Utterance]]:
    out = folder.parent / "out.jsonl"
    result = import_data(ImportRequest(folder, out, force=True, **options), SilentProgress())
    return result, list(read_manifest(out, require_text=False).utterances)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "corpus"
    made.mkdir()
    return made


# --- layouts


def test_common_voice_gives_its_splits_and_speakers(folder: Path) -> None:
    heading = "client_id\tpath\tsentence\tup_votes\tage\tlocale\n"
    for name in ("train", "dev", "test", "validated", "invalidated"):
        _clip(folder / "clips" / f"{name}.wav")
        row = f"speaker-{name}\t{name}.wav\tSaid in {name}\t2\tthirties\ten\n"
        _write(folder / f"{name}.tsv", heading + row)
    result, utterances = _import(folder)
    assert [(item.split, item.text, item.speaker, item.language) for item in utterances] == [
        (name, f"Said in {name}", f"speaker-{name}", "en") for name in ("train", "dev", "test")
    ]
    assert utterances[0].extra == {"age": "thirties"}
    assert "Common Voice" in result.source
    assert result.unlisted == 2
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").unlink()
    _, validated = _import(folder)
    assert [(item.split, item.text) for item in validated] == [(None, "Said in validated")]


def test_kaldi_with_and_without_segments(folder: Path) -> None:
    _clip(folder / "long.wav", 3.0)
    _write(folder / "wav.scp", f"rec1 {folder}/long.wav\nrec2 sox in.wav -t wav - |\n")
    _write(folder / "text", "u1 hello you\nu2 and me\nu3 of a pipe\nu4 of nothing\n")
    _write(folder / "utt2spk", "u1 anna\nu2 bert\n")
    _write(folder / "segments", "u1 rec1 0.5 1.25\nu2 rec1 1.5 2.9\nu3 rec2 0 1\nu4 gone 0 1\n")
    with pytest.raises(ProblemsError) as problems:
        _import(folder)
    assert any("a command instead of a file" in line for line in problems.value.problems)
    assert any("u4: no such recording" in line for line in problems.value.problems)
    result, utterances = _import(folder, skip_bad=True)
    assert [(item.id, item.start, item.end, item.text, item.speaker) for item in utterances] == [
        ("u1", 0.5, 1.25, "hello you", "anna"), ("u2", 1.5, 2.9, "and me", "bert"),
    ]  # fmt: skip
    assert result.reasons == {"malformed": 2}
    (folder / "segments").unlink()
    _write(folder / "wav.scp", "u1 long.wav\n")
    _, utterances = _import(folder)
    assert [(item.id, item.start, item.duration, item.text) for item in utterances] == [
        ("u1", None, 3.0, "hello you")
    ]


def _recording(channels: int = 1) -> dict[str, Any]:
    source = {"type": "file", "channels": list(range(channels)), "source": "talk.wav"}
    return {"id": "talk", "sources": [source], "sampling_rate": 16000, "duration": 4.0}


def _supervision(**more: Any) -> dict[str, Any]:
    return {"id": "s1", "recording_id": "talk", "start": 1.0, "duration": 1.5, "channel": 0,
            "text": "good morning", "speaker": "ada", "language": "en", **more}  # fmt: skip


def test_lhotse_recordings_with_supervisions_and_cuts(folder: Path) -> None:
    _clip(folder / "talk.wav", 4.0)
    for name, record in (("recordings", _recording()), ("supervisions", _supervision())):
        packed = gzip.compress((json.dumps(record) + "\n").encode())
        (folder / f"my_{name}_train.jsonl.gz").write_bytes(packed)
    _, utterances = _import(folder)
    assert [(item.id, item.start, item.end, item.text, item.speaker) for item in utterances] == [
        ("s1", 1.0, 2.5, "good morning", "ada")
    ]
    cut = {"id": "c1", "start": 0.5, "duration": 3.0, "channel": 0, "recording": _recording(),
           "supervisions": [_supervision(start=0.25)], "type": "MonoCut"}  # fmt: skip
    mixed = {"id": "m1", "type": "MixedCut", "tracks": []}
    _write(folder / "cuts.jsonl", json.dumps(cut) + "\n" + json.dumps(mixed) + "\n")
    _, utterances = _import(folder, skip_bad=True)
    assert [(item.start, item.end) for item in utterances] == [(0.75, 2.25)]
    (folder / "cuts.jsonl").unlink()
    (folder / "cuts.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(RequestError, match="cannot be decompressed"):
        _import(folder)


def test_one_channel_of_several_is_cut_out_or_refused(folder: Path, tmp_path: Path) -> None:
    _clip(folder / "talk.wav", 4.0, channels=2)
    _write(folder / "recordings.jsonl", json.dumps(_recording(2)) + "\n")
    _write(folder / "supervisions.jsonl", json.dumps(_supervision(channel=1)) + "\n")
    with pytest.raises(ProblemsError) as problems:
        _import(folder)
    assert "--audio-out" in problems.value.problems[0]
    _, utterances = _import(folder, audio_out=tmp_path / "copies")
    both, _ = sf.read(folder / "talk.wav", dtype="float32")
    copy = load_audio(utterances[0].audio)
    assert np.allclose(copy, both[16_000:40_000, 1], atol=1e-4)
    assert utterances[0].start is None and utterances[0].duration == 1.5


# --- cues


_SRT = """1
00:00:00,500 --> 00:00:01,200
Hello <i>there</i>

2
00:00:01,200 --> 00:00:02,000
General
Kenobi
"""


def test_subtitles_split_a_long_recording(folder: Path) -> None:
    _clip(folder / "talk.wav", 3.0)
    _write(folder / "talk.srt", _SRT)
    result, utterances = _import(folder)
    assert [(item.id, item.start, item.end, item.text, item.session) for item in utterances] == [
        ("talk-00001", 0.5, 1.2, "Hello there", "talk"),
        ("talk-00002", 1.2, 2.0, "General Kenobi", "talk"),
    ]
    assert result.source == "2 cues beside 1 of 1 recordings"
    assert (
        len(load_audio(utterances[0].audio, start=utterances[0].start, end=utterances[0].end))
        == 11_200
    )


def test_webvtt_voices_are_speakers(folder: Path) -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.500\n<v Ada Byron>Good <b>morning</b>\n"
    cue = read_transcript(folder / "a.vtt", text).cues[0]  # type: ignore[union-attr]
    assert (cue.start, cue.end, cue.text, cue.speaker) == (1.0, 2.5, "Good morning", "Ada Byron")


_TIER = """        class = "IntervalTier"
        name = "{name}"
        xmin = 0
        xmax = 3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1
            text = ""
        intervals [2]:
            xmin = 1
            xmax = 2.5
            text = "{text}"
"""


def _textgrid(*tiers: tuple[str, str]) -> str:
    head = (f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 3\n'
            f"tiers? <exists>\nsize = {len(tiers)}\nitem []:\n")  # fmt: skip
    return head + "".join(
        f"    item [{number}]:\n" + _TIER.format(name=name, text=text)
        for number, (name, text) in enumerate(tiers, start=1)
    )


def test_a_textgrid_is_read_by_tier(folder: Path) -> None:
    _clip(folder / "talk.wav", 3.0)
    _write(folder / "talk.TextGrid", _textgrid(("phones", "h e"), ("words", "hello you")))
    with pytest.raises(RequestError, match=r"which tier .*phones, words") as error:
        _import(folder)
    assert "--tier" in str(error.value.hint)
    _, utterances = _import(folder, tier="words")
    assert [(item.start, item.end, item.text) for item in utterances] == [(1.0, 2.5, "hello you")]
    with pytest.raises(RequestError, match="no interval tier is called 'none'"):
        _import(folder, tier="none")
    _write(folder / "talk.TextGrid", _textgrid(("phones", "h e"), ("Sentence", "hello you")))
    assert _import(folder)[1][0].text == "hello you"
    _write(folder / "talk.TextGrid", "nothing of the kind")
    with pytest.raises(RequestError, match="cannot be read as a TextGrid"):
        _import(folder)


def test_reversed_and_overlapping_cues_are_refused_or_left_out(folder: Path) -> None:
    _clip(folder / "talk.wav", 9.0)
    _write(
        folder / "talk.srt",
        "1\n00:00:00,000 --> 00:00:02,000\nfine\n\n"
        "2\n00:00:01,500 --> 00:00:03,000\noverlapping\n\n"
        "3\n00:00:05,000 --> 00:00:04,000\nreversed\n\n"
        "4\n00:00:06,000 --> 00:00:20,000\ntoo long\n\n"
        "5\n00:00:07,000 --> 00:00:08,000\ninside of the fourth\n",
    )
    with pytest.raises(ProblemsError) as problems:
        _import(folder)
    text = "\n".join(problems.value.problems)
    assert "cue 2: starts at 1.5 s, but the cue before it ends at 2 s" in text
    assert "cue 3: ends at 4 s, but starts at 5 s" in text
    assert "the span 6 to 20 s is not within its 9.00 s" in text
    result, utterances = _import(folder, skip_bad=True)
    assert [item.text for item in utterances] == ["fine"]
    assert result.rows == 5 and sum(result.reasons.values()) == 4


def test_cues_in_another_encoding_and_without_text(folder: Path) -> None:
    _clip(folder / "talk.wav", 3.0)
    (folder / "talk.srt").write_bytes(_SRT.replace("Hello", "Grüße").encode("latin-1"))
    with pytest.raises(RequestError, match="not UTF-8") as error:
        _import(folder)
    assert "save it again as UTF-8" in str(error.value.hint)
    (folder / "talk.srt").write_bytes(_SRT.replace("Hello", "Grüße").encode("utf-16"))
    assert _import(folder)[1][0].text == "Grüße there"
    _write(folder / "talk.srt", "no cues in here\n")
    with pytest.raises(ProblemsError, match="1 of 1 rows") as problems:
        _import(folder)
    assert "no cue with a text" in problems.value.problems[0]


def test_the_same_row_twice_is_an_error(folder: Path) -> None:
    for name in ("one/a.wav", "two/a.wav"):
        _clip(folder / name)
    table = "id,audio,text\nx,one/a.wav,first\nx,one/a.wav,second\n"
    _write(folder / "t.csv", table)
    with pytest.raises(ProblemsError) as problems:
        _import(folder)
    assert "an earlier row has id 'x'" in problems.value.problems[0]
    _write(folder / "t.csv", "number,audio,text\n,one/a.wav,first\n,two/a.wav,second\n")
    _, utterances = _import(folder)
    assert sorted(item.id for item in utterances) == ["one/a", "two/a"]


# --- datasets


def test_a_saved_dataset_with_embedded_audio(folder: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    content = [_clip(tmp_path / f"{name}.wav", 0.5).read_bytes() for name in ("aa", "bbb")]
    table = pyarrow.table({
        "audio": [{"bytes": item, "path": None} for item in content],
        "sentence": ["first", "second"],
        "speaker_id": [7, 8],
    })  # fmt: skip
    for split in ("train", "test"):
        (folder / split).mkdir()
        with (
            pyarrow.OSFile(str(folder / split / "data-0.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        _write(folder / split / "state.json", '{"_data_files": [{"filename": "data-0.arrow"}]}')
    _write(folder / "dataset_dict.json", '{"splits": ["train", "test"]}')
    result, utterances = _import(folder)
    assert [(item.split, item.text, item.speaker) for item in utterances] == [
        ("train", "first", "7"), ("train", "second", "8"),
        ("test", "first", "7"), ("test", "second", "8"),
    ]  # fmt: skip
    assert utterances[0].audio.read_bytes() == content[0]
    assert utterances[0].audio == utterances[2].audio, "the same recording is written once"
    assert utterances[0].audio.parent == tmp_path / "out-audio"
    assert "datasets: 2 tables of train, test" in result.source


def test_parquet_files_and_a_broken_one(folder: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    clip = _clip(tmp_path / "c.wav")
    table = pyarrow.table({"audio": [str(clip)], "text": ["said"]})
    (folder / "data").mkdir()
    parquet.write_table(table, folder / "data" / "validation-00000-of-00001.parquet")
    _, utterances = _import(folder)
    assert [(item.split, item.text, item.audio) for item in utterances] == [
        ("dev", "said", clip.resolve())
    ]
    (folder / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(RequestError, match="cannot be read as a table"):
        _import(folder)


# --- copies


def test_copies_are_mono_16_khz_and_written_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _clip(folder / "a.wav", 0.5, rate=44_100, channels=2)
    _write(folder / "a.txt", "said")
    copies = tmp_path / "copies"
    _, utterances = _import(folder, audio_out=copies)
    info = sf.info(utterances[0].audio)
    assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
    assert np.allclose(load_audio(utterances[0].audio), load_audio(folder / "a.wav"), atol=1e-4)
    assert len(utterances[0].extra["source_sha256"]) == 64

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an existing copy is not written again")

    monkeypatch.setattr(convert, "write_audio", never)
    _, again = _import(folder, audio_out=copies)
    assert again[0].audio == utterances[0].audio
    monkeypatch.undo()
    _, second = _import(folder, audio_out=copies, channel=2)
    both, _ = sf.read(folder / "a.wav", dtype="float32")
    assert second[0].audio != utterances[0].audio
    assert len(list(copies.iterdir())) == 2
    assert both.shape[1] == 2
    with pytest.raises(ProblemsError, match="nothing can be imported"):
        _import(folder, audio_out=copies, channel=3)
    with pytest.raises(RequestError, match="--audio-out"):
        _import(folder, channel=2)


def test_a_recording_that_is_cut_off_is_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _clip(folder / f"{name}.wav")
        _write(folder / f"{name}.txt", "said")
    with wave.open(str(folder / "b.wav"), "rb") as file:
        frames = file.getnframes()
    raw = (folder / "b.wav").read_bytes()
    (folder / "b.wav").write_bytes(raw[: len(raw) - frames])
    result, utterances = _import(folder, audio_out=tmp_path / "copies")
    assert [item.id for item in utterances] == ["a"]
    assert result.reasons == {"unreadable": 1}
