"""Recordings without transcripts: which clips they give, and which labels of these are trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.conftest import clip_of

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.data.pseudo_labels.clips import unlabelled_clips
from moonshine_tune.data.pseudo_labels.filter import choose_filter
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data
from moonshine_tune.inference.confidence import share_covered
from moonshine_tune.metrics.wer import ErrorCounts

# --- the filter


def _filter(*clips: tuple[float, int]):
    """Of dev clips with ten words each, by score and errors."""
    counts = [ErrorCounts(substitutions=errors, reference=10) for _, errors in clips]
    return choose_filter([score for score, _ in clips], counts)


def test_clips_are_kept_down_to_the_score_below_which_they_are_mostly_wrong() -> None:
    good = [(0.9 - 0.01 * n, n % 2) for n in range(12)]
    bad = [(0.4 - 0.01 * n, 6) for n in range(8)]
    chosen = _filter(*bad, *good)
    assert (chosen.threshold, chosen.dev_kept, chosen.dev_clips) == (0.9 - 0.01 * 11, 12, 20)
    assert chosen.wer_kept == pytest.approx(5.0) and chosen.wer_all == pytest.approx(27.0)
    assert chosen.keeps(0.9) and not chosen.keeps(0.4)
    # One wrong clip among good ones costs less than the good ones below it give.
    assert _filter((0.95, 6), *good).dev_kept == 13


def test_a_model_that_is_right_keeps_all_and_one_that_is_wrong_nothing() -> None:
    assert _filter(*((0.1 * n + 0.1, 0) for n in range(10))).dev_kept == 10
    assert _filter(*((0.1 * n + 0.1, 8) for n in range(10))).threshold is None
    # A score of 0 is no text, or one that repeats itself: never learned, whatever dev says.
    assert _filter(*((0.0, 0) for _ in range(10))).threshold is None


def test_a_model_that_is_mostly_wrong_learns_from_what_it_has_mostly_right() -> None:
    # Half of its words are wrong: up to a quarter may be in what is learned.
    chosen = _filter(*((0.9, 2) for _ in range(8)), *((0.2, 9) for _ in range(6)))
    assert (chosen.threshold, chosen.dev_kept) == (0.9, 8)
    # Of a clip that a normalizer makes one word of, five insertions are one wrong word.
    counts = [ErrorCounts(insertions=5, reference=1), *[ErrorCounts(reference=2)] * 9]
    assert choose_filter([0.9] * 10, counts).dev_kept == 10


def test_clips_of_one_score_stay_together_and_a_few_decide_nothing() -> None:
    assert _filter(*((0.5, 0) for _ in range(5)), *((0.5, 10) for _ in range(5))).threshold is None
    with pytest.raises(RequestError, match="dev has 9 clips with words") as error:
        _filter(*((0.9, 0) for _ in range(9)))
    assert "at least 10" in (error.value.hint or "") and "50" in (error.value.hint or "")


# --- attention


def test_sound_far_from_every_peak_is_not_covered() -> None:
    attention = np.zeros((2, 100), np.float32)
    attention[0, 10] = attention[1, 30] = 1.0
    sounds = np.ones(100)
    assert share_covered(attention, [0, 1], sounds, 0.04) == pytest.approx(0.51)
    sounds[52:] = -1.0
    assert share_covered(attention, [0, 1], sounds, 0.04) == pytest.approx(51 / 52)
    assert share_covered(attention, [], sounds, 0.04) == 0.0


# --- the clips


def _write(path: Path, seconds: float, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, clip_of(seconds, seed), 16_000, subtype="PCM_16")
    return path


def _clips(path: Path, held: dict[str, list[Utterance]] | None = None, max_clip_s: float = 30.0):
    return unlabelled_clips(path, held or {}, max_clip_s=max_clip_s, progress=SilentProgress())


def test_a_folder_gives_clips_and_counts_what_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    _write(folder / "a" / "one.wav", 1.0)
    soundfile.write(folder / "long.wav", np.tile(clip_of(3.0), 8), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more")
    result = _clips(folder)
    assert result.clips[0].id == "a/one"
    pieces = [item for item in result.clips if item.id.startswith("long-")]
    assert len(pieces) >= 2 and all((item.known_seconds or 99) <= 15.0 for item in pieces)
    assert all(item.text is None and item.session == "long" for item in pieces)
    remarks = " ".join(result.remarks)
    assert "1 recordings cannot be read" in remarks and "1 long recordings are cut" in remarks
    assert [item.id for item in _clips(folder / "a" / "one.wav").clips] == ["one"]


def test_nothing_to_label_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no recording is in this folder") as error:
        _clips(tmp_path / "empty")
    assert "--unlabelled" in (error.value.hint or "")
    with pytest.raises(RequestError, match="no such folder or manifest"):
        _clips(tmp_path / "nowhere")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(RequestError, match="no recording is left to label: 1 recordings cannot"):
        _clips(tmp_path / "only")


def test_clips_of_the_run_are_left_out_whatever_their_file_is_called(tmp_path: Path) -> None:
    names = ("kept", "dev", "copy", "train")
    paths = {name: _write(tmp_path / "in" / f"{name}.wav", 1.0, n) for n, name in enumerate(names)}
    paths["copy"].write_bytes(paths["dev"].read_bytes())
    samples, rate = soundfile.read(paths["train"])
    elsewhere = tmp_path / "train.flac"
    soundfile.write(elsewhere, samples, rate, subtype="PCM_16")
    long = tmp_path / "in" / "talk.wav"
    soundfile.write(long, np.tile(clip_of(5.0, 9), 6), 16_000)
    held = {
        "dev": [
            Utterance("dev", paths["dev"], "a b"),
            Utterance("talk", long, "c", start=1.0, end=2.0),
        ],
        "train": [Utterance("kept", elsewhere, "d", duration=1.0)],
    }
    result = _clips(tmp_path / "in", held)
    ids = [item.id for item in result.clips]
    assert ids[0] == "kept~unlabelled" and all(name.startswith("talk-") for name in ids[1:])
    assert min(item.start or 0.0 for item in result.clips[1:]) >= 2.0
    assert [remark for remark in result.remarks if "are also in" in remark] == [
        "unlabelled: 3 clips are also in dev: left out",
        "unlabelled: 1 clips are also in train: left out",
    ]


def test_texts_and_scored_splits_of_a_manifest_are_not_learned(tmp_path: Path) -> None:
    manifest = tmp_path / "all.jsonl"
    lines = []
    for n, split in enumerate(("train", "test", "dev", "train")):
        _write(tmp_path / f"{n}.wav", 1.0, n)
        lines.append({"id": f"u{n}", "audio": f"{n}.wav", "text": "secret", "split": split,
                      "speaker": "ann", "hypothesis": "old", "note": "kept"})  # fmt: skip
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = _clips(manifest)
    assert [item.id for item in result.clips] == ["u0", "u3"]
    assert result.clips[0].text is None and result.clips[0].extra == {"note": "kept"}
    remarks = " ".join(result.remarks)
    assert "2 of 4 lines are of a split that is scored" in remarks
    assert "2 of 2 lines have a text, which is not read" in remarks and "--train" in remarks


# --- the mark of a pseudo-label


def test_a_text_that_a_person_changed_is_no_pseudo_label_any_more(tmp_path: Path) -> None:
    _write(tmp_path / "a.wav", 1.0)
    marks = {"pseudo_label": True, "hypothesis": "turn right"}
    lines = [
        {"id": "same", "audio": "a.wav", "text": "turn right", **marks},
        {"id": "corrected", "audio": "a.wav", "text": "turn left", **marks},
        {"id": "plain", "audio": "a.wav", "text": "turn left"},
    ]
    path = tmp_path / "learned.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    utterances = read_manifest(path).utterances
    assert [item.is_pseudo_labelled for item in utterances] == [True, False, False]
    assert [item.is_real for item in utterances] == [False, True, True]


def test_corrected_labels_are_imported_as_a_log_of_corrections(tmp_path: Path) -> None:
    lines = []
    for n, text in enumerate(("turn left", "turn right", "climb now")):
        _write(tmp_path / f"{n}.wav", 1.0, n)
        lines.append({"id": f"u{n}", "audio": f"{n}.wav", "text": text, "pseudo_label": True,
                      "hypothesis": "turn right", "score": 0.5})  # fmt: skip
    log = tmp_path / "learned.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out.jsonl"
    import_data(ImportRequest(tmp_path, out, corrections=log), SilentProgress())
    assert all(item.is_real for item in read_manifest(out).utterances)
