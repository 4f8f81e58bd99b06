"""`transcribe`: inputs, outputs, names, resuming, and recordings that cannot be read."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.command_line import Answer
from tests.conftest import Samples, clip_of

from moonshine_tune.audio import blocks
from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest, scan_manifest
from moonshine_tune.importers.transcripts.cue import TranscriptFile
from moonshine_tune.importers.transcripts.read import read_transcript
from moonshine_tune.inference.timed_text import TimedText, TimedWord
from moonshine_tune.transcription import run as job
from moonshine_tune.transcription.aliases import with_aliases
from moonshine_tune.transcription.formats import FORMATS, Document
from moonshine_tune.transcription.made import made_path
from moonshine_tune.transcription.output import output_request
from moonshine_tune.transcription.recordings import find_recordings
from moonshine_tune.transcription.run import TranscribeRequest, TranscribeResult, transcribe
from moonshine_tune.transcription.segments import Segment

RATE = 16_000
LONG = [part for n in range(6) for part in (4.0 + n % 3, -0.6)]


def speech(*seconds: float, seed: int = 0) -> Samples:
    """Sound, and silence of negative lengths."""
    parts = [
        clip_of(length, seed + n) if length > 0 else np.zeros(round(-length * RATE), np.float32)
        for n, length in enumerate(seconds)
    ]
    return np.concatenate(parts)


def write(path: Path, samples: Samples) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two short recordings of the same name, a long one and a silent one."""
    recordings = tmp_path / "recordings"
    write(recordings / "a" / "one.wav", speech(1.5))
    write(recordings / "b" / "one.flac", speech(1.2, seed=3))
    write(recordings / "long.wav", speech(*LONG, seed=5))
    write(recordings / "quiet.wav", np.zeros(2 * RATE, np.float32))
    (recordings / "notes.txt").write_text("not a recording")
    return recordings


def transcribe_all(
    model: Path, inputs: Iterable[Path | str], out: Path | None = None, **options: Any
) -> tuple[TranscribeResult, str]:
    """The result, and what went to standard output."""
    emitted: list[str] = []
    choices = {"with_words": False, "resume": False, "overwrite": False}
    formats = options.pop("formats", [])
    output = output_request(out, formats, **(choices | options))
    request = TranscribeRequest(tuple(map(str, inputs)), output, model=str(model), device="cpu")
    result = transcribe(request, SilentProgress(), (), emitted.append)
    return result, "".join(emitted)


# --- inputs


def test_recordings_of_a_folder_have_names_of_their_own(folder: Path) -> None:
    recordings = find_recordings([str(folder)], ())
    assert [item.name for item in recordings] == ["a/one", "b/one", "long", "quiet"]
    # As files they are called the same; each is there once.
    paths = [folder / "a" / "one.wav", folder / "b" / "one.flac", folder / "a" / "one.wav"]
    named = find_recordings(list(map(str, paths)), ())
    assert [item.name for item in named] == ["one.wav", "one.flac"]
    shutil.copy(folder / "a" / "one.wav", folder / "b" / "one.wav")
    named = find_recordings([str(folder / name / "one.wav") for name in "ab"], ())
    assert [item.name for item in named] == ["a/one.wav", "b/one.wav"]


def test_ids_of_any_form_become_names_of_files(folder: Path, tmp_path: Path) -> None:
    ids = ["x" * 400, "x" * 401, "é" * 200, "../../up", "CON", "a\nb", "a b (1)", "..."]
    recording = next(folder.rglob("*.wav")).resolve()
    rows = [{"id": name, "audio": str(recording), "start": 0.1 * n} for n, name in enumerate(ids)]
    manifest = tmp_path / "ids.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [item.name for item in find_recordings([str(manifest)], ())]
    assert len(set(names)) == len(ids)
    assert all(len(name.encode()) <= 200 and name.isprintable() for name in names)
    assert all("/" not in name and not name.startswith("..") for name in names)
    assert names[4].startswith("CON-")
    assert names[6] == "a b (1)"


def test_paths_come_from_standard_input_and_manifests(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "some.jsonl"
    lines = [
        {"id": "x/1", "audio": "recordings/long.wav", "start": 1.0, "end": 3.5, "speaker": "s"},
        {"id": "x/2", "audio": "recordings/long.wav", "start": 5.0},
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recordings = find_recordings(["-", str(manifest)], [f"{folder}/quiet.wav\n", "\n"])
    assert [item.name for item in recordings] == ["quiet", "x_1", "x_2"]
    assert recordings[1].utterance.speaker == "s"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "missing", "no such file or folder"),
        (lambda path: path.joinpath("empty").mkdir() or path / "empty", "no recording is in this"),
    ],
)
def test_wrong_inputs_are_refused(
    make: Callable[[Path], Path], message: str, tmp_path: Path, saved_v1: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        transcribe_all(saved_v1, [make(tmp_path)])


# --- outputs


def test_a_folder_gets_files_of_each_recording(
    folder: Path, saved_v1: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result, emitted = transcribe_all(
        saved_v1, [folder], out, formats=["text", "jsonl", "srt", "vtt", "textgrid"]
    )
    assert emitted == ""
    assert (result.transcribed, result.failed) == (4, ())
    assert [Path(name).name for name in result.silent] == ["quiet.wav"]
    written = sorted(str(path.relative_to(out)) for path in out.rglob("[!.]*.*"))
    endings = sorted(item.ending for item in FORMATS.values())
    names = ("a/one", "b/one", "long", "quiet")
    assert written == sorted(f"{name}{ending}" for name in names for ending in endings)
    assert (out / "quiet.txt").read_text() == ""
    text = (out / "long.txt").read_text()
    manifest = read_manifest(out / "long.jsonl")
    assert [item.text for item in manifest.utterances] == text.splitlines()
    assert len(manifest) > 1
    assert all(0 <= item.extra["confidence"] <= 1 for item in manifest.utterances)
    spans = [(item.start, item.end) for item in manifest.utterances]
    assert spans == sorted(spans)


def test_a_file_holds_all_recordings_in_order(folder: Path, saved_v1: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    transcribe_all(saved_v1, [folder], out, with_words=True)
    scan = scan_manifest(out)
    assert scan.problems == ()
    names = [item.audio.name for item in scan.utterances]
    assert list(dict.fromkeys(names)) == ["one.wav", "one.flac", "long.wav"]
    words = scan.utterances[0].extra["words"]
    assert " ".join(word["text"] for word in words) == scan.utterances[0].text
    assert list(tmp_path.glob("*.partial")) == []
    with pytest.raises(RequestError, match="4 recordings cannot be in one srt file"):
        transcribe_all(saved_v1, [folder], tmp_path / "all.srt")


def test_text_on_standard_output_names_the_recording_where_there_are_several(
    folder: Path, saved_v1: Path, tmp_path: Path
) -> None:
    _, single = transcribe_all(saved_v1, [folder / "a" / "one.wav"])
    _, several = transcribe_all(saved_v1, [folder / "a", folder / "b"])
    assert several.splitlines()[0] == f"one.wav\t{single.strip()}"
    assert several.splitlines()[1].startswith("one.flac\t")


def test_a_short_recording_has_the_transcript_that_evaluate_scores(
    folder: Path, saved_v1: Path
) -> None:
    import moonshine_tune as mt

    path = folder / "a" / "one.wav"
    _, text = transcribe_all(saved_v1, [path])
    (expected,) = mt.transcribe([path], model=str(saved_v1), device="cpu")
    assert text.strip() == expected.text


def test_pieces_of_several_recordings_are_transcribed_together(
    folder: Path, saved_v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    decode = job.TorchTranscriber.transcribe

    def counted(self: Any, clips: Any) -> list[str]:
        batches.append(len(clips))
        return decode(self, clips)

    monkeypatch.setattr(job.TorchTranscriber, "transcribe", counted)
    transcribe_all(saved_v1, [folder])
    # What repeats itself is transcribed again, in a second batch.
    assert len(batches) <= 2
    assert batches[0] > 3


@pytest.mark.parametrize(
    ("out", "formats", "message"),
    [
        (None, ["text", "srt"], "standard output takes one format"),
        (None, ["docx"], "no format is called 'docx'"),
        ("a.srt", ["vtt"], "the file's name says srt"),
        ("a.pdf", [], "is the ending of no format"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    out: str | None, formats: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        output_request(
            None if out is None else tmp_path / out,
            formats, with_words=False, resume=False, overwrite=False,
        )  # fmt: skip


def test_an_existing_output_is_replaced_or_completed_only_if_asked(
    folder: Path, saved_v1: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    transcribe_all(saved_v1, [folder / "a"], out)
    (out / "one.txt").write_text("by hand")
    with pytest.raises(RequestError, match="1 of 1 transcripts exist already"):
        transcribe_all(saved_v1, [folder / "a"], out)
    result, _ = transcribe_all(saved_v1, [folder / "a"], out, resume=True)
    assert (result.transcribed, result.skipped) == (0, 1)
    assert (out / "one.txt").read_text() == "by hand"
    transcribe_all(saved_v1, [folder / "a"], out, overwrite=True)
    assert (out / "one.txt").read_text() != "by hand"


def test_an_input_is_never_overwritten(folder: Path, saved_v1: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "some.jsonl"
    manifest.write_text('{"audio": "recordings/long.wav"}\n')
    with pytest.raises(RequestError, match="would overwrite an input"):
        transcribe_all(saved_v1, [manifest], manifest, overwrite=True)
    with pytest.raises(RequestError, match="text cannot hold the times of words"):
        transcribe_all(saved_v1, [folder], with_words=True)


# --- a job that is killed


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("target", ["out", "labels.jsonl"])
def test_a_killed_job_continues_where_it_stopped(
    target: str,
    folder: Path,
    saved_v1: Path,
    saved_streaming: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, out = tmp_path / "expected" / target, tmp_path / "stopped" / target
    formats = ["jsonl"]
    transcribe_all(saved_v1, [folder], expected, formats=formats)
    decode, calls = job.TorchTranscriber.transcribe_timed, [0]
    monkeypatch.setattr(job.TorchTranscriber, "batch_s", 8.0)

    def killed(self: Any, clips: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise _Killed
        return decode(self, clips)

    monkeypatch.setattr(job.TorchTranscriber, "transcribe_timed", killed)
    with pytest.raises(_Killed):
        transcribe_all(saved_v1, [folder], out, formats=formats)
    (journal,) = (tmp_path / "stopped").rglob("*.partial")
    assert not (out if target.endswith("jsonl") else out / "long.jsonl").exists()
    # Half of a line, as the disk may have it.
    journal.write_text(journal.read_text() + '{"recording": "lo')
    with pytest.raises(RequestError, match="a transcription that was stopped is here"):
        transcribe_all(saved_v1, [folder], out, formats=formats)
    with pytest.raises(RequestError, match=r"begun with other settings \(model\)"):
        transcribe_all(saved_streaming, [folder], out, formats=formats, resume=True)
    before = calls[0]
    transcribe_all(saved_v1, [folder], out, formats=formats, resume=True)
    assert calls[0] > before
    files = [expected] if target.endswith("jsonl") else sorted(expected.rglob("*.jsonl"))
    for path in files:
        same = out if path == expected else out / path.relative_to(expected)
        lines = [list(map(json.loads, item.read_text().splitlines())) for item in (path, same)]
        for line in itertools.chain(*lines):
            # Its last digits depend on the batch.
            line.pop("confidence", None)
        assert lines[0] == lines[1]
    assert list((tmp_path / "stopped").rglob("*.partial")) == []


@pytest.mark.parametrize("target", ["out", "labels.jsonl"])
def test_what_is_skipped_is_of_the_same_recording_model_and_settings(
    target: str, folder: Path, saved_v1: Path, saved_streaming: Path, tmp_path: Path
) -> None:
    """The name of a file says nothing about what is in it."""
    out, path = tmp_path / target, folder / "a" / "one.wav"
    options = {"formats": ["jsonl"], "resume": True}
    transcribe_all(saved_v1, [path], out, formats=["jsonl"])
    result, _ = transcribe_all(saved_v1, [path], out, **options)
    assert (result.transcribed, result.skipped) == (0, 1)
    with pytest.raises(RequestError, match="of another model"):
        transcribe_all(saved_streaming, [path], out, **options)
    with pytest.raises(RequestError, match="of another words"):
        transcribe_all(saved_v1, [path], out, **options, with_words=True)
    before = path.stat()
    write(path, speech(1.5, seed=7))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(RequestError, match="of another recording of the same name"):
        transcribe_all(saved_v1, [path], out, **options)
    transcribe_all(saved_v1, [path], out, formats=["jsonl"], overwrite=True)
    transcribe_all(saved_v1, [path], out, **options)
    made = made_path(out)
    made.unlink()
    with pytest.raises(RequestError, match="of unknown origin"):
        transcribe_all(saved_v1, [path], out, **options)


# --- recordings that cannot be read


def test_bad_recordings_are_named_and_the_rest_goes_on(
    folder: Path, saved_v1: Path, tmp_path: Path, ask: Callable[..., Answer]
) -> None:
    (folder / "empty.wav").write_bytes(b"")
    (folder / "noise.mp3").write_bytes(bytes(range(256)) * 20)
    shutil.copy(folder / "notes.txt", folder / "text.wav")
    out = tmp_path / "out"
    code, document = ask("transcribe", folder, "--model", saved_v1, "--out", out)
    assert code == 1
    failed = {Path(item["recording"]).name: item["reason"] for item in document["failed"]}
    assert sorted(failed) == ["empty.wav", "noise.mp3", "text.wav"]
    assert failed["empty.wav"] == "the file is empty"
    assert document["transcribed"] == 4
    assert (out / "long.txt").is_file()
    assert not (out / "empty.txt").exists()


def test_the_command_line_says_what_is_wrong(
    folder: Path, tmp_path: Path, saved_v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(["transcribe", str(empty), "--model", str(saved_v1)]) == 2
    assert "no recording is in this folder" in capsys.readouterr().err
    assert run(["transcribe", str(folder), "--channel", "1", "--format", "jsonl"]) == 2
    assert "data import" in capsys.readouterr().err
    assert run(["transcribe", str(folder), "--runtime-dir", "x", "--words"]) == 2
    assert "--words" in capsys.readouterr().err


def test_a_channel_is_read_alone(tmp_path: Path, saved_v1: Path) -> None:
    left, right = speech(1.5), speech(1.5, seed=9)
    write(tmp_path / "left.wav", left)
    soundfile.write(tmp_path / "both.wav", np.column_stack([left, right]), RATE)
    output = output_request(None, [], with_words=False, resume=False, overwrite=False)
    texts = []
    for name, channel in (("left.wav", None), ("both.wav", 1), ("both.wav", 2)):
        emitted: list[str] = []
        request = TranscribeRequest(
            (str(tmp_path / name),), output, model=str(saved_v1), device="cpu", channel=channel
        )
        transcribe(request, SilentProgress(), (), emitted.append)
        texts.append("".join(emitted))
    assert texts[0] == texts[1] != texts[2]


# --- formats


def _document() -> Document:
    texts = [
        ("It was the best of times.", 0.5, 3.0),
        ("Two cities, and the worst of all times that were ever seen by anyone there.", 4.0, 9.5),
    ]
    segments = []
    for text, start, end in texts:
        parts = text.split()
        step = (end - start) / len(parts)
        words = tuple(
            TimedWord(part, n * step, (n + 0.9) * step, 0.9) for n, part in enumerate(parts)
        )
        segments.append(Segment.of(start, end, TimedText(text, words)))
    utterance = find_utterance()
    return Document(utterance, 10.0, tuple(segments), with_words=True)


def find_utterance() -> Any:
    from moonshine_tune.corpus.manifest import Utterance

    return Utterance("talk", Path("/recordings/talk.wav"), speaker="anna")


@pytest.mark.parametrize("name", ["srt", "vtt", "textgrid"])
def test_importers_read_what_is_written(name: str) -> None:
    document = _document()
    form = FORMATS[name]
    content = form.render(document)
    transcript = read_transcript(Path(f"talk{form.ending}"), content, seconds=10.0)
    assert isinstance(transcript, TranscriptFile)
    assert transcript.words == " ".join(segment.text for segment in document.segments)
    first, last = transcript.cues[0], transcript.cues[-1]
    assert first.start == pytest.approx(0.5, abs=0.01)
    assert last.end == pytest.approx(9.5, abs=0.1)


def test_captions_are_short_enough_to_be_read() -> None:
    transcript = read_transcript(Path("talk.srt"), FORMATS["srt"].render(_document()))
    assert isinstance(transcript, TranscriptFile)
    assert all(len(cue.text) <= 84 and cue.end - cue.start <= 7.0 for cue in transcript.cues)


def test_a_recording_is_never_asked_for_more_than_a_block(
    folder: Path, saved_v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "long.wav", speech(*LONG * 3, seed=5))
    asked: list[float] = []
    load = blocks.load_audio

    def spied(path: Path, *, start: float, end: float | None, channel: int | None) -> Samples:
        samples = load(path, start=start, end=end, channel=channel)
        asked.append(len(samples) / RATE)
        return samples

    monkeypatch.setattr(blocks, "load_audio", spied)
    transcribe_all(saved_v1, [folder / "long.wav"])
    assert len(asked) > 3
    assert max(asked) <= blocks.MAX_READ_S


@pytest.mark.real_model
@pytest.mark.shared_data
def test_joined_clips_are_transcribed_as_one_by_one(
    real_tiny: object, shared_data: Path, tmp_path: Path
) -> None:
    from moonshine_tune.audio.io import load_utterance
    from moonshine_tune.corpus.normalizers import normalizer_for
    from moonshine_tune.metrics.wer import score_utterance

    clips = read_manifest(shared_data / "ljspeech" / "manifest.jsonl").utterances[:3]
    pause = np.zeros(RATE // 2, np.float32)
    parts = [part for clip in clips for part in (load_utterance(clip), pause)]
    recording = write(tmp_path / "joined.wav", np.concatenate(parts))

    def errors_of(inputs: list[Path]) -> int:
        _, text = transcribe_all(Path("tiny"), inputs)
        hypothesis = " ".join(line.split("\t")[-1] for line in text.splitlines())
        reference = " ".join(clip.reference for clip in clips)
        normalizer = normalizer_for("english-1")
        return score_utterance("joined", reference, hypothesis, normalizer).words.errors

    # "woodcutters" may be written as two words.
    assert errors_of([recording]) <= errors_of([clip.audio for clip in clips]) + 2


def test_the_words_of_an_alias_become_one_word() -> None:
    texts = ["See", "cooper", "netties,", "craiffish-hilston!", "Yes."]
    words = tuple(TimedWord(text, n, n + 0.5, n / 10) for n, text in enumerate(texts))
    aliases = {"cooper netties": "Kubernetes", "craiffish": "crayfish", "hilston": "Helstone"}
    mapped = with_aliases(TimedText(" ".join(texts), words), aliases)
    assert mapped.text == "See Kubernetes, crayfish-Helstone! Yes."
    assert [word.text for word in mapped.words] == mapped.text.split()
    assert (mapped.words[1].start, mapped.words[1].end) == (1, 2.5)
    assert mapped.words[1].confidence == pytest.approx(0.15)
    assert with_aliases(TimedText("nothing here"), aliases) == TimedText("nothing here")
