"""Kaldi data folders: separators, speakers and what the files do not agree on."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.messages import Messages

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data


def imported(
    tmp_path: Path, files: dict[str, list[str]], mark: str = " "
) -> tuple[tuple[Utterance, ...], list[str]]:
    folder, out, progress = tmp_path / "data", tmp_path / "out.jsonl", Messages()
    for name in ("u1", "u2"):
        (folder / "wav").mkdir(parents=True, exist_ok=True)
        sf.write(folder / "wav" / f"{name}.wav", np.full(16_000, 0.1), 16_000)
    for name, lines in files.items():
        text = "".join(line.replace(" ", mark, 1) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    import_data(ImportRequest(folder, out, force=True), progress)
    return read_manifest(out).utterances, progress.lines


FILES = {
    "wav.scp": ["u1 wav/u1.wav", "u2 wav/u2.wav"],
    "text": ["u1 turn left", "u2 go on"],
    "utt2spk": ["u1 anna", "u2 ben"],
}


@pytest.mark.parametrize("mark", [" ", "\t", "   ", " \t", "\u00a0"])
def test_any_white_space_separates(mark: str, tmp_path: Path) -> None:
    utterances, remarks = imported(tmp_path, FILES, mark)
    assert [(item.id, item.text, item.speaker) for item in utterances] == [
        ("u1", "turn left", "anna"), ("u2", "go on", "ben"),
    ]  # fmt: skip
    assert not [line for line in remarks if "not in" in line]


@pytest.mark.parametrize("mark", [" ", "\t"])
def test_segments_with_any_white_space_and_an_open_end(mark: str, tmp_path: Path) -> None:
    segments = [line.replace(" ", mark) for line in ("u1 r 0.25 0.5", "u2 r 0.5 -1")]
    files = FILES | {"wav.scp": ["r wav/u1.wav"], "segments": segments}
    utterances, _ = imported(tmp_path, files, mark)
    assert [(item.id, item.start, item.end) for item in utterances] == [
        ("u1", 0.25, 0.5), ("u2", 0.5, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("speakers", [["u1 anna"], ["u1 anna", "u3 ben"], ["u1 anna", "u2"]])
def test_utterances_without_a_speaker_are_counted_and_named(
    speakers: list[str], tmp_path: Path
) -> None:
    utterances, remarks = imported(tmp_path, FILES | {"utt2spk": speakers})
    assert [item.speaker for item in utterances] == ["anna", None]
    assert "1 of 2 utterances are not in utt2spk, such as 'u2'" in remarks


def test_transcripts_without_a_recording_are_counted_and_named(tmp_path: Path) -> None:
    _, remarks = imported(tmp_path, FILES | {"text": [*FILES["text"], "u9 lost"]})
    assert "1 of 3 utterances are not in wav.scp, such as 'u9'" in remarks


def test_speakers_may_be_listed_with_their_utterances(tmp_path: Path) -> None:
    files = {name: FILES[name] for name in ("wav.scp", "text")} | {"spk2utt": ["anna u1 u2"]}
    utterances, _ = imported(tmp_path, files)
    assert [item.speaker for item in utterances] == ["anna", "anna"]


@pytest.mark.parametrize("name", ["text", "utt2spk"])
def test_two_values_of_one_key_are_refused(name: str, tmp_path: Path) -> None:
    files = FILES | {name: [*FILES[name], "u1 other words"]}
    with pytest.raises(ProblemsError, match=r"u1 is 'other words', and .* in line 1"):
        imported(tmp_path, files)
