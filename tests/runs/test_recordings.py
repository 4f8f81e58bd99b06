"""A run knows the recordings that it was made of by their sound."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from moonshine_tune.audio.io import write_audio
from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.runs import recordings as recordings_module
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.recordings import check_recordings, keep_recordings, read_recordings

_QUIET = SilentProgress()
ByManifest = Mapping[str, Sequence[Utterance]]


def _record(path: Path, hertz: float) -> None:
    tone = 0.1 * np.sin(np.arange(1600) * hertz / 2546)
    write_audio(path, tone.astype(np.float32))


def _settle(path: Path) -> None:
    """As a recording of yesterday, as far as a program can set that."""
    os.utime(path, ns=(1_000_000_000, 1_000_000_000))


@pytest.fixture
def corpus(tmp_path: Path) -> ByManifest:
    """Four clips of train, of which one is held out and one is not drawn; one clip of replay."""
    for number in range(5):
        _record(tmp_path / f"{number}.wav", 200 + number)
        _settle(tmp_path / f"{number}.wav")
    clips = [Utterance(f"u{n}", tmp_path / f"{n}.wav", speaker="ann") for n in range(5)]
    # An id may be in two manifests.
    return {"train": clips[:4], "replay": [Utterance("u0", clips[4].audio)]}


@pytest.fixture
def run(tmp_path: Path, corpus: ByManifest) -> RunFolder:
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")
    train = [item.span for item in corpus["train"]]
    used = {"train": train[:2], "dev": train[2:3], "replay": [corpus["replay"][0].span]}
    keep_recordings(run, corpus, used, _QUIET)
    return run


def test_what_is_used_is_written_down_without_paths(run: RunFolder, tmp_path: Path) -> None:
    uses = [(item.manifest, item.use, item.id) for item in read_recordings(run)]
    assert uses == [
        ("train", "train", "u0"),
        ("train", "train", "u1"),
        ("train", "dev", "u2"),
        ("replay", "replay", "u0"),
    ]
    assert str(tmp_path) not in run.recordings_path.read_text()


def test_more_steps_add_what_they_draw(run: RunFolder, corpus: ByManifest) -> None:
    before = run.recordings_path.read_text()
    used = {"train": [item.span for item in corpus["train"][1:]]}
    keep_recordings(run, corpus, used, _QUIET)
    assert run.recordings_path.read_text().startswith(before)
    assert [item.id for item in read_recordings(run)] == ["u0", "u1", "u2", "u0", "u3"]


def test_changed_sound_is_refused_by_name(run: RunFolder, corpus: ByManifest) -> None:
    check_recordings(run, corpus, _QUIET)
    path = corpus["train"][1].audio
    _record(path, 300)
    _settle(path)
    _record(corpus["train"][3].audio, 300)
    with pytest.raises(ProblemsError, match="1 of 4 recordings are not the ones") as caught:
        check_recordings(run, corpus, _QUIET)
    assert f"train: u1 ({path})" in str(caught.value)
    assert caught.value.exit_code == 2


def test_copies_of_the_same_sound_pass(run: RunFolder, corpus: ByManifest, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    moved = {
        name: [
            Utterance(
                item.id, Path(shutil.copyfile(item.audio, tmp_path / "copies" / f"{name}-{i}.wav"))
            )
            for i, item in enumerate(items)
        ]
        for name, items in corpus.items()
    }
    check_recordings(run, moved, _QUIET)


def test_a_file_that_looks_as_it_did_is_not_read(
    corpus: ByManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Just written files have no mark: a change within a tick of the clock would keep their times.
    monkeypatch.setattr("moonshine_tune.audio.fingerprint._SETTLED_NS", -1)
    run = RunFolder(tmp_path)
    keep_recordings(run, corpus, {"train": [item.span for item in corpus["train"]]}, _QUIET)

    def read(_: Utterance) -> str:
        raise AssertionError("it was read")

    monkeypatch.setattr(recordings_module, "recording_fingerprint", read)
    check_recordings(run, corpus, _QUIET)


def test_a_run_of_an_earlier_version_has_nothing_to_compare(
    run: RunFolder, corpus: ByManifest
) -> None:
    run.recordings_path.unlink()
    assert read_recordings(run) == []
    check_recordings(run, corpus, _QUIET)
    run.recordings_path.write_text('{"id": "u0"}\nno line\n{"id": 3, "fingerprint": "x"}\n')
    check_recordings(run, corpus, _QUIET)
