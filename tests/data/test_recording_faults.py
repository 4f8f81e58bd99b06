"""What `data import` and `data check` say about recordings that are read in a special way."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.messages import Messages

from moonshine_tune.audio.remarks import READING_REMARKS
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.checks.check import check_data
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data

RATE = 16_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    READING_REMARKS.take()  # of other tests
    time = np.arange(RATE * 2) / RATE
    voice = 0.3 * np.sin(2 * np.pi * 220 * time) * (np.sin(12 * time) > -0.5)
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    sf.write(recordings / "plain.wav", voice, RATE)
    sf.write(recordings / "opposite.wav", np.stack([voice, -voice], axis=1), RATE)
    sf.write(recordings / "integers.wav", np.round(voice * 32_767), RATE, subtype="FLOAT")
    part = (recordings / "plain.wav").read_bytes()
    (recordings / "joined.wav").write_bytes(part + part)
    (recordings / "stopped.wav").write_bytes(part + bytes(range(1, 255)) * 40)
    for path in sorted(recordings.iterdir()):
        path.with_suffix(".txt").write_text(f"the words of {path.stem}")
    return recordings


EXPECTED = {
    "opposite": "left_out_channels",
    "integers": "float_scale",
    "joined": "joined_recordings",
}


def test_import_and_check_name_what_is_decided(folder: Path, tmp_path: Path) -> None:
    progress, out = Messages(), tmp_path / "all.jsonl"
    result = import_data(ImportRequest(str(folder), out), progress)
    assert result.reasons == {"unreadable": 1}
    for stem in EXPECTED:
        assert sum(line.startswith(f"{stem}.wav: ") for line in progress.lines) == 1
    seconds = {item.id: item.duration for item in read_manifest(out).utterances}
    assert seconds == {"plain": 2.0, "opposite": 2.0, "integers": 2.0, "joined": 4.0}
    findings = {item.kind: item for item in check_data([out], SilentProgress()).findings}
    for stem, kind in EXPECTED.items():
        assert (findings[kind].severity, findings[kind].ids) == ("warning", (stem,))
    assert "silent" not in findings and "clipped" not in findings


def test_copies_are_made_from_what_is_read(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    import_data(ImportRequest(str(folder), out, audio_out=tmp_path / "copies"), SilentProgress())
    copies = {item.id: sf.read(item.audio)[0] for item in read_manifest(out).utterances}
    plain = copies["plain"]
    for stem in ("opposite", "integers"):
        assert np.abs(copies[stem] - plain).max() < 1e-3
    assert np.abs(copies["joined"] - np.concatenate([plain, plain])).max() < 1e-3


def test_a_channel_that_is_asked_for_needs_no_remark(folder: Path, tmp_path: Path) -> None:
    progress, copies = Messages(), tmp_path / "copies"
    for path in folder.iterdir():
        if path.stem != "opposite":
            path.unlink()
    request = ImportRequest(str(folder), tmp_path / "all.jsonl", audio_out=copies, channel=2)
    import_data(request, progress)
    assert not any("cancel" in line for line in progress.lines)


def test_a_channel_that_the_table_names_needs_no_remark(folder: Path, tmp_path: Path) -> None:
    progress, copies = Messages(), tmp_path / "copies"
    table = folder / "table.csv"
    table.write_text("file,text,channel\nopposite.wav,left,A\nopposite.wav,right,B\n")
    request = ImportRequest(str(folder), tmp_path / "all.jsonl", table=table, audio_out=copies)
    import_data(request, progress)
    assert not any("cancel" in line for line in progress.lines)
    assert any("is the channel of the recording" in line for line in progress.lines)
