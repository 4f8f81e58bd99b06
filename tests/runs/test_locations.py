"""A run that was moved together with its data is read from its new place."""

import hashlib
import shlex
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.runs.locations import RunLocations, locate, relative_paths
from moonshine_tune.runs.records import RunRecord


def _project(root: Path, text: str = "one\n") -> dict[str, Any]:
    """A folder with data, noises and an empty run; returns the run's settings."""
    for name in ("data", "noises", "runs/a"):
        (root / name).mkdir(parents=True)
    for name in ("train", "dev", "replay"):
        (root / "data" / f"{name}.jsonl").write_text(f"{name} {text}")
    data = {name: str(root / "data" / f"{name}.jsonl") for name in ("train", "dev", "replay")}
    return {"model": "tiny", "data": data, "augment": {"noise": str(root / "noises")}}


def _record(root: Path, settings: dict[str, Any]) -> RunRecord:
    digests = {
        name: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for name, path in settings["data"].items()
    }
    return RunRecord(
        settings=settings, data=digests, relative_paths=relative_paths(root / "runs/a", settings)
    )


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, RunRecord]:
    record = _record(tmp_path / "A", _project(tmp_path / "A"))
    (tmp_path / "A").rename(tmp_path / "B b")
    return tmp_path / "B b", record


def test_a_run_that_stayed_reads_what_it_names(tmp_path: Path) -> None:
    record = _record(tmp_path / "A", _project(tmp_path / "A"))
    files = locate(tmp_path / "A/runs/a", record)
    assert set(files.present) == {"data.train", "data.dev", "data.replay", "augment.noise"}
    assert (files.moved, files.missing, files.remarks) == ({}, {}, [])


def test_a_moved_run_finds_its_files_beside_it(moved: tuple[Path, RunRecord]) -> None:
    root, record = moved
    files = locate(root / "runs/a", record)
    assert files.missing == {}
    assert files.moved["data.dev"] == root / "data/dev.jsonl"
    assert files.moved["augment.noise"] == root / "noises"
    assert len(files.remarks) == 4


def test_from_another_folder_by_a_relative_path(
    moved: tuple[Path, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, record = moved
    monkeypatch.chdir(root / "data")
    assert (
        locate(Path("../runs/a"), record, ["data.train"])
        .moved["data.train"]
        .samefile(root / "data/train.jsonl")
    )


def test_through_a_link_to_the_run(moved: tuple[Path, RunRecord], tmp_path: Path) -> None:
    root, record = moved
    link = tmp_path / "elsewhere" / "deep" / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(root / "runs/a")
    assert locate(link, record).missing == {}


def test_a_link_above_the_run_is_read_as_it_is_written(tmp_path: Path) -> None:
    """`runs` is a link to another disk; the data lies beside the link."""
    settings = _project(tmp_path / "A")
    (tmp_path / "A/runs").rename(tmp_path / "disk")
    (tmp_path / "A/runs").symlink_to(tmp_path / "disk")
    record = _record(tmp_path / "A", settings)
    (tmp_path / "A").rename(tmp_path / "B")
    assert locate(tmp_path / "B/runs/a", record).missing == {}


def test_of_two_copies_the_content_decides(moved: tuple[Path, RunRecord], tmp_path: Path) -> None:
    """At the old place there is another project by now, with other manifests."""
    root, record = moved
    _project(tmp_path / "A", "other\n")
    files = locate(root / "runs/a", record, ["data.train", "data.dev"])
    assert files.moved["data.train"] == root / "data/train.jsonl"
    (root / "data/dev.jsonl").write_text("also other\n")
    assert "data.dev" not in locate(root / "runs/a", record).moved


def test_what_is_nowhere_is_named_with_a_command(moved: tuple[Path, RunRecord]) -> None:
    root, record = moved
    (root / "data/dev.jsonl").unlink()
    (root / "noises").rmdir()
    files: RunLocations = locate(root / "runs/a", record)
    assert set(files.missing) == {"data.dev", "augment.noise"}
    assert "data.dev is not at " in files.describe_missing("data.dev")
    words = shlex.split(files.resume_command)
    assert words[:5] == ["moonshine-tune", "train", "--resume", "--out", str(root / "runs/a")]
    assert words[5:] == ["--dev", "dev.jsonl", "--set", "augment.noise=noises"]


def test_a_record_of_an_earlier_version_names_what_is_missing(
    moved: tuple[Path, RunRecord],
) -> None:
    root, record = moved
    old = RunRecord(settings=record.settings, data=record.data)
    assert set(locate(root / "runs/a", old).missing) == {
        "data.train", "data.dev", "data.replay", "augment.noise"
    }  # fmt: skip
