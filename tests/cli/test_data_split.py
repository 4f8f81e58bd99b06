"""`data split` through the real entry point."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.data import split as data_split


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for record in records:
        audio = path.parent / record["audio"]
        audio.parent.mkdir(parents=True, exist_ok=True)
        audio.touch()
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def records(num_speakers: int = 10, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"s{speaker}-{n}", "audio": f"clips/s{speaker}-{n}.wav", "text": f"text {n} of it",
         "speaker": f"s{speaker}", "duration": 2.0, "gender": "f"} | more
        for speaker in range(num_speakers)
        for n in range(4)
    ]  # fmt: skip


def split(*words: str | Path, code: int, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["data", "split", *map(str, words), "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return document


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def test_three_valid_manifests_that_share_no_speaker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", records())
    document = split(source, "--out", tmp_path / "out", code=0, capsys=capsys)
    splits = {
        name: read_manifest(tmp_path / "out" / f"{name}.jsonl").utterances
        for name in ("train", "dev", "test")
    }
    sizes = {name: len(members) for name, members in splits.items()}
    assert sizes == {"train": 32, "dev": 4, "test": 4}
    speakers = [{item.speaker for item in members} for members in splits.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 10
    assert all(item.split == name for name, members in splits.items() for item in members)
    assert all(item.extra == {"gender": "f"} for members in splits.values() for item in members)
    assert [side["name"] for side in document["sides"]] == ["train", "dev", "test"]
    assert document["sides"][0]["seconds"] == 64.0
    assert document["sides"][0]["speakers"] == 8
    assert (document["total"], document["kept"]) == (40, 40)
    assert document["leaks"]["speakers"] == document["leaks"]["recordings"] == []
    assert len(document["leaks"]["texts"]) == 4


def test_same_seed_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "all.jsonl", records())
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        split(source, "--out", tmp_path / name, "--seed", seed, code=0, capsys=capsys)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_the_split_passes_the_check_for_leaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unique = [record | {"text": f"words of {record['id']}"} for record in records()]
    source = write(tmp_path / "all.jsonl", unique)
    split(source, "--out", tmp_path / "out", code=0, capsys=capsys)
    paths = [str(path) for path in sorted((tmp_path / "out").glob("*.jsonl"))]
    run(["data", "check", *paths, "--json"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    kinds = {item["kind"] for item in document["findings"]}
    assert not {kind for kind in kinds if kind.startswith("leaked")}


def test_a_share_of_zero_writes_no_file_and_removes_an_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", records())
    out = tmp_path / "out"
    split(source, "--out", out, code=0, capsys=capsys)
    refused = split(source, "--out", out, "--test", "0", code=2, capsys=capsys)
    assert "--force" in refused["error"]["hint"]
    assert (out / "test.jsonl").exists()
    split(source, "--out", out, "--test", "0", "--force", code=0, capsys=capsys)
    assert sorted(contents(out)) == ["dev.jsonl", "split.json", "train.jsonl"]


def test_disjoint_texts_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = [
        record | ({"text": f"only {record['id']}"} if record["id"][-1] != "0" else {})
        for record in records()
    ]
    source = write(tmp_path / "all.jsonl", mixed)
    words = (source, "--out", tmp_path / "out", "--disjoint-texts")
    document = split(*words, code=0, capsys=capsys)
    assert document["leaks"]["texts"] == []
    # "text 0 of it" stays with the one test speaker; 8 in train and 1 in dev are dropped.
    assert document["kept"] == 31
    assert document["remarks"] == [
        "dev: kept 3 of 4: 1 with a text that is also in test",
        "train: kept 24 of 32: 8 with a text that is also in dev or test",
        "dev has 3 clips with 6 words: one wrong word is 16.7 points of WER, and without a single "
        "error the true WER may still be 39 %",
        "test has 4 clips with 10 words: one wrong word is 10.0 points of WER, and without a "
        "single error the true WER may still be 26 %",
    ]


def test_splits_can_be_written_beside_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", records())
    split(source, "--out", tmp_path, "--force", code=0, capsys=capsys)
    assert source.exists()
    assert (tmp_path / "clips" / "s0-0.wav").exists()
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert first["audio"].startswith("clips/")


def test_the_manifest_itself_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "train.jsonl", records())
    before = source.read_bytes()
    split(source, "--out", tmp_path, "--force", code=2, capsys=capsys)
    assert source.read_bytes() == before


def test_one_speaker_cannot_be_split_by_speaker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", records(1))
    words = (source, "--out", tmp_path / "out", "--by", "speaker")
    document = split(*words, code=2, capsys=capsys)
    assert "cannot be split" in document["error"]["message"]
    assert "--by auto" in document["error"]["hint"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("--dev", "0.6", "--test", "0.4"), ("--dev", "-1"),
                                   ("--dev", "0", "--test", "0")])  # fmt: skip
def test_impossible_shares(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", records())
    split(source, "--out", tmp_path / "out", *words, code=2, capsys=capsys)
    assert not (tmp_path / "out").exists()


def test_by_field_uses_the_split_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [
        record | {"split": "validation" if record["speaker"] == "s3" else "Train"}
        for record in records()
    ]
    source = write(tmp_path / "all.jsonl", named)
    words = (source, "--out", tmp_path / "out", "--by-field")
    document = split(*words, code=0, capsys=capsys)
    assert [(side["name"], side["utterances"]) for side in document["sides"]] == [
        ("train", 36), ("dev", 4),
    ]  # fmt: skip
    dev = read_manifest(tmp_path / "out" / "dev.jsonl").utterances
    assert {item.speaker for item in dev} == {"s3"}


def test_by_field_without_the_field_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", records())
    words = (source, "--out", tmp_path / "out", "--by-field")
    document = split(*words, code=2, capsys=capsys)
    assert "(none) (40)" in document["error"]["message"]


def test_all_invalid_lines_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "all.jsonl", records())
    source.write_text(source.read_text() + "{\nnull\n")
    document = split(source, "--out", tmp_path / "out", code=2, capsys=capsys)
    assert f"{source}:41" in document["error"]["message"]
    assert f"{source}:42" in document["error"]["message"]


def test_a_failed_write_keeps_the_old_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "all.jsonl", records())
    out = tmp_path / "out"
    split(source, "--out", out, code=0, capsys=capsys)
    before = contents(out)

    def full_at_the_second(path: Path, utterances: Any) -> None:
        if "dev" in path.name:
            raise OSError(28, "No space left on device")
        write_manifest(path, utterances)

    monkeypatch.setattr(data_split, "write_manifest", full_at_the_second)
    document = split(source, "--out", out, "--seed", "9", "--force", code=3, capsys=capsys)
    assert "full" in document["error"]["message"]
    assert contents(out) == before


def test_the_next_command_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "all.jsonl", records())
    out = tmp_path / "my split"
    capsys.readouterr()
    assert run(["data", "split", str(source), "--out", str(out), "--dev", "0"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("next: moonshine-tune train ")
    assert shlex.split(last)[-4:] == ["--train", str(out / "train.jsonl"), "--out", "runs/first"]
