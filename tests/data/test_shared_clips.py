"""Clips that two sets share are recognized under other names, and where spans overlap."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moonshine_tune.audio.io import write_audio
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.data.shared_clips import repeated_clips
from moonshine_tune.inference.dataset import TrainingData
from moonshine_tune.training.folds import _folds
from moonshine_tune.training.train_dev_split import train_and_dev


def _clips(folder: Path, names: str) -> list[Utterance]:
    """Clips of one size that differ in sound."""
    clips = []
    for name in names:
        tone = 0.1 * np.sin(np.arange(1600) * (200 + ord(name)) / 2546)
        write_audio(folder / f"{name}.wav", tone.astype(np.float32))
        clips.append(
            Utterance(name, folder / f"{name}.wav", f"word {name}", f"speaker {name}", duration=0.1)
        )
    return clips


def _copy(item: Utterance, name: str) -> Utterance:
    """A copy of a recording, of a speaker who is called otherwise."""
    path = Path(shutil.copyfile(item.audio, item.audio.with_name(f"{name}.wav")))
    return Utterance(name, path, item.text, f"speaker {name}", duration=0.1)


def _manifest(name: str, clips: list[Utterance]) -> Manifest:
    return Manifest(Path(f"{name}.jsonl"), tuple(clips), name)


def test_copies_are_recognized_and_other_sound_of_the_same_size_is_not(tmp_path: Path) -> None:
    clips = _clips(tmp_path, "abc")
    copy = _copy(clips[0], "copy")
    assert repeated_clips(clips[:2], [copy, clips[2]]) == (copy,)
    # The same samples in another format, under the same text.
    soundfile.write(tmp_path / "a.flac", *soundfile.read(clips[0].audio, dtype="int16"))
    flac = replace(copy, audio=tmp_path / "a.flac")
    assert repeated_clips(clips[:2], [flac, replace(flac, text="else")]) == (flac,)
    gone = Utterance("gone", tmp_path / "gone.wav")
    assert repeated_clips([gone, clips[0]], [gone, clips[2]]) == (gone,)


@pytest.mark.parametrize(
    ("known", "held_out", "is_shared"),
    [
        ((0.0, 5.0), (4.0, 9.0), False),  # what cues overlap at their borders
        ((0.0, 5.0), (2.0, 7.0), True),
        ((0.0, 5.0), (1.0, 2.0), True),
        ((None, None), (8.0, 9.0), True),
        ((None, None), (None, None), True),
        ((5.0, None), (1.0, 5.0), False),
    ],
)
def test_spans_that_share_half_are_one(
    tmp_path: Path,
    known: tuple[float | None, float | None],
    held_out: tuple[float | None, float | None],
    is_shared: bool,
) -> None:
    path = tmp_path / "a.wav"
    first, second = (Utterance("u", path, start=start, end=end) for start, end in (known, held_out))
    assert bool(repeated_clips([first], [second])) is is_shared


def test_copies_in_dev_and_canary_are_refused_and_replayed_ones_named(tmp_path: Path) -> None:
    train, other = _clips(tmp_path, "abcd"), _clips(tmp_path, "xyz")
    copy = _copy(train[1], "q")
    settings = RunSettings.model_validate({"data": {"dev": "dev.jsonl"}})
    data = TrainingData(_manifest("train", train), dev=_manifest("dev", [*other, copy]))
    with pytest.raises(RequestError, match="1 of 4 dev clips are also training clips, such as q"):
        train_and_dev(settings, data)
    by_heart = train_and_dev(settings, TrainingData(data.train, _manifest("dev", [copy])))
    assert "dev: all of its clips are copies of training clips" in by_heart.remarks[0]
    dev = _manifest("dev", other)
    data = TrainingData(data.train, dev, canary=_manifest("canary", [copy, other[0]]))
    with pytest.raises(RequestError, match="1 of 2 canary clips are also training clips") as caught:
        train_and_dev(settings, data)
    assert caught.value.where == "canary.jsonl"
    replay = _manifest("replay", [_copy(other[2], "r")])
    remarks = train_and_dev(settings, TrainingData(data.train, dev, replay=replay)).remarks
    assert any("1 of its 3 clips are also replayed" in remark for remark in remarks)


def test_copies_of_what_is_held_out_leave_train(tmp_path: Path) -> None:
    clips = _clips(tmp_path, "abcdefghij")
    copies = [_copy(item, f"copy-{item.id}") for item in clips]
    parts = train_and_dev(RunSettings(), TrainingData(_manifest("train", [*clips, *copies])))
    assert parts.dev and not repeated_clips(parts.train, parts.dev)
    assert any("copies of clips of dev" in remark for remark in parts.remarks)
    assert len(parts.train) + 2 * len(parts.dev) == 20


def test_copies_of_what_a_fold_holds_out_leave_it(tmp_path: Path) -> None:
    clips = _clips(tmp_path, "abcdefghij")
    everything = [*clips, *(_copy(item, f"copy-{item.id}") for item in clips)]
    for fold in _folds(everything[2:], everything[:2], count=3, seed=1):
        assert fold.dev and not repeated_clips(fold.train, fold.dev)
