"""Replay audio for someone who has no manifest of it: spoken here, of a folder, or of the hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training_runs import Watcher

from moonshine_tune.audio import tts
from moonshine_tune.audio.io import load_utterance, write_audio
from moonshine_tune.config.resolve import resolve_settings, settings_layers
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.data import hub_replay, replay_audio
from moonshine_tune.data.replay_audio import ReplayAudio, find_replay_audio, with_replay_audio
from moonshine_tune.data.synthesis.general_sentences import general_sentences, replay_sentences
from moonshine_tune.runs.records import ReplayRecord


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight sentences: two clips."""
    monkeypatch.setattr(replay_audio, "replay_sentences", lambda: replay_sentences()[:8])


def _find(wanted: Any, progress: Watcher | None = None, **options: Any) -> ReplayAudio:
    options = {"max_clip_s": 30.0} | options
    return find_replay_audio(wanted, "tiny", progress=progress or Watcher(), **options)


def _clips(audio: ReplayAudio) -> tuple[Utterance, ...]:
    assert audio.manifest is not None
    return read_manifest(audio.manifest, require_text=False).utterances


def _without_espeak() -> tuple[Path, Path]:
    raise MachineError("espeak-ng is not installed", hint="pip install espeakng-loader")


def _noise(path: Path, seconds: float, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_audio(path, (rng.standard_normal(round(seconds * 16_000)) * 0.1).astype(np.float32))


def test_the_sentences_are_many_and_none_is_in_the_other_list() -> None:
    sentences = replay_sentences()
    words = {word.strip(".,?!").lower() for sentence in sentences for word in sentence.split()}
    assert len(set(sentences)) == len(sentences) > 300 and len(words) > 1_400
    assert not set(sentences) & set(general_sentences())


def test_auto_speaks_once_and_takes_the_recordings_of_the_wheel() -> None:
    progress = Watcher()
    first = _find("auto", progress, max_clip_s=6.0)
    clips = _clips(first)
    assert first.record.kind == "auto" and first.record.clips == len(clips)
    assert "espeak-ng" in first.record.source and "moonshine-voice" in first.record.source
    assert {item.text for item in clips} == {None}
    watched = {item.id.partition("-")[0] for item in clips if item.extra.get("held_out")}
    assert watched == {"two_cities"} and len(clips) > 12
    lengths = [len(load_utterance(item)) / 16_000 for item in (clips[0], clips[-1])]
    assert all(0.5 < seconds <= 6.001 for seconds in lengths)
    assert all((item.known_seconds or 0) <= 6.001 for item in clips)
    assert progress.messages == ["replay auto: speaking general sentences, once; kept in the cache"]
    again = Watcher()
    assert _find("auto", again, max_clip_s=6.0) == first and not again.messages


def test_damaged_audio_of_the_cache_is_made_again_and_a_run_can_have_it_back() -> None:
    first = _find("auto")
    assert first.manifest is not None
    before = first.manifest.read_bytes()
    recording = _clips(first)[0].audio
    recording.write_bytes(recording.read_bytes()[:-100])
    progress = Watcher()
    assert _find("auto", progress) == first
    assert any("damaged" in message and recording.name in message for message in progress.messages)
    # The path that a run has written down, after the cache was emptied.
    shutil.rmtree(first.manifest.parent)
    again = _find(first.manifest)
    assert again.manifest == first.manifest and first.manifest.read_bytes() == before
    assert again.record == first.record


def test_without_espeak_the_recordings_of_the_wheel_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tts, "_installed", _without_espeak)
    monkeypatch.setattr(replay_audio, "_ENGINES", ("espeak",))
    audio = _find("auto")
    assert audio.record.source == "the recordings of moonshine-voice"
    assert "pip install espeakng-loader" in audio.remark and _clips(audio)


def test_with_nothing_the_run_goes_on_and_says_what_to_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tts, "_installed", _without_espeak)
    monkeypatch.setattr(replay_audio, "_ENGINES", ("espeak",))
    monkeypatch.setattr(replay_audio, "wheel_recordings", lambda cache: ())
    audio = _find("auto")
    assert audio.manifest is None and audio.record.kind == "none"
    assert "pip install espeakng-loader" in audio.remark and "--replay FOLDER" in audio.remark


def test_auto_is_english_and_another_language_gets_none() -> None:
    audio = find_replay_audio("auto", "tiny-ja", max_clip_s=30, progress=Watcher())
    assert audio.manifest is None and "tiny-ja" in audio.remark
    with pytest.raises(RequestError, match="English"):
        find_replay_audio("hub", "tiny-ja", max_clip_s=30, progress=Watcher())


def test_a_folder_of_recordings_is_cut_without_copies(tmp_path: Path) -> None:
    folder = tmp_path / "my calls"
    for number, seconds in enumerate((2.0, 50.0)):
        _noise(folder / f"{number}.wav", seconds, number)
    (folder / "broken.wav").write_bytes(b"RIFF")
    audio = _find(folder)
    clips = _clips(audio)
    assert {item.audio for item in clips} == {(folder / f"{n}.wav").resolve() for n in range(2)}
    assert all((item.known_seconds or 0.0) <= 20.0 for item in clips)
    assert audio.record.kind == "folder" and "2 of 3" in audio.record.source
    assert str(tmp_path) not in json.dumps(audio.record.to_json())
    # New recordings are seen.
    _noise(folder / "2.wav", 3.0, 2)
    assert len(_clips(_find(folder))) == len(clips) + 1


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no recording is in this folder"):
        _find(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(RequestError, match="none of the 1 recordings"):
        _find(tmp_path)


def test_a_long_folder_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        _noise(tmp_path / f"{number}.wav", 2.0, number)
    monkeypatch.setattr(replay_audio, "_MAX_FOLDER_S", 5.0)
    assert len(_clips(_find(tmp_path))) == 3


def test_settings_get_the_manifest_and_words_are_no_paths(tmp_path: Path) -> None:
    def resolve(replay: str | None, **settings: Any) -> Any:
        named = {"replay": replay}
        layers = settings_layers("tiny", None, None, flags={}, manifests=named)
        return resolve_settings([*layers, ("test", settings)])

    assert resolve(None).settings.data.replay == "auto"
    assert resolve("none").settings.data.replay is None
    assert resolve("./auto").settings.data.replay == Path("auto").absolute()
    assert resolve("general.jsonl").settings.data.replay == Path("general.jsonl").absolute()
    resolved, audio = with_replay_audio(resolve("auto"), Watcher())
    assert resolved.settings.data.replay == audio.manifest
    assert resolved.sources["data.replay"] == "flag"
    # Nothing is made for a run that would not use it.
    resolved, audio = with_replay_audio(resolve("auto", **{"retain.weight": 0}), Watcher())
    assert resolved.settings.data.replay is None and audio.record.kind == "none"


@pytest.mark.parametrize("synthetic", [2, 1])
def test_next_to_synthesized_clips_nothing_is_synthesized(synthetic: int, tmp_path: Path) -> None:
    """Sentences of the same voices would pull against what is learned."""
    clips = []
    for number in range(2):
        path = tmp_path / f"{number}.wav"
        _noise(path, 2.0)
        extra = {"synthetic": True} if number < synthetic else {}
        clips.append(Utterance(path.stem, path, text="one two", duration=2.0, extra=extra))
    write_manifest(tmp_path / "train.jsonl", clips)
    named = {"train": str(tmp_path / "train.jsonl")}
    layers = settings_layers("tiny", None, None, flags={}, manifests=named)
    resolved, audio = with_replay_audio(resolve_settings(layers), Watcher())
    assert ("espeak" in audio.record.source) == (synthetic == 1)
    assert ("no sentences are spoken" in audio.remark) == (synthetic == 2)
    assert "moonshine-voice" in audio.record.source
    # A run that has written the path down gets the same ones back.
    manifest = resolved.settings.data.replay
    before = manifest.read_bytes()
    shutil.rmtree(manifest.parent)
    assert _find(manifest).record == audio.record
    assert manifest.read_bytes() == before


def test_a_manifest_is_taken_as_it_is(tmp_path: Path) -> None:
    _noise(tmp_path / "a.wav", 2.0)
    write_manifest(tmp_path / "a.jsonl", [Utterance("a", tmp_path / "a.wav", duration=2.0)])
    audio = _find(tmp_path / "a.jsonl")
    assert audio.manifest == tmp_path / "a.jsonl"
    assert audio.record.to_json() == {
        "kind": "manifest", "source": "recordings of a manifest", "clips": 1, "seconds": 2.0
    }  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `datasets` reads like the hub: Arrow files, as the real dataset has."""
    pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: cc-by-3.0\n---\nSpeech.\n")
    rows = []
    for number in range(5):
        _noise(tmp_path / f"{number}.flac", 2.0, number)
        rows.append((tmp_path / f"{number}.flac").read_bytes())
    table = pyarrow.table({
        "audio": [{"bytes": row, "path": f"{n}.flac"} for n, row in enumerate(rows)],
        "text": ["words"] * 5, "duration": [2.0] * 5,
    })  # fmt: skip
    with pyarrow.ipc.new_file(folder / "train-00000.arrow", table.schema) as writer:
        writer.write_table(table)
    monkeypatch.setattr(hub_replay, "DATASET", str(folder))
    monkeypatch.setattr(hub_replay, "_MAX_CLIPS", 3)
    return folder


def test_hub_fetches_some_clips_once_and_names_the_license(hub: Path) -> None:
    progress = Watcher()
    audio = _find("hub", progress)
    clips = _clips(audio)
    assert len(clips) == 3 and {item.text for item in clips} == {None}
    assert audio.record.license == "cc-by-3.0" and "license cc-by-3.0" in audio.remark
    assert "license cc-by-3.0" in progress.messages[0]
    shutil.rmtree(hub)
    assert _find("hub") == audio


def test_hub_refuses_another_license(hub: Path) -> None:
    (hub / "README.md").write_text("---\nlicense: other\n---\n")
    with pytest.raises(RequestError, match=r"is other now, and was cc-by-3\.0") as caught:
        _find("hub")
    assert "data import" in str(caught.value.hint)


def test_hub_without_network_is_a_plain_error() -> None:
    with pytest.raises(MachineError, match="--replay hub needs the model hub") as caught:
        _find("hub")
    assert caught.value.exit_code == 3 and "--replay auto" in str(caught.value.hint)


def test_the_sentence_of_a_record() -> None:
    record = ReplayRecord(kind="hub", source="owner/name", clips=3, seconds=600, license="mit")
    assert record.sentence == "hub, 3 clips (10 min): owner/name, license mit"
