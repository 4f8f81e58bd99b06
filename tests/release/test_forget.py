"""A person's recordings are taken out of everything, and what learned from them is named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.command_line import Answer
from tests.release.made_up_run import write_json

from moonshine_tune.audio.io import write_audio
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.release.archive import pack

_TEXTS = {"anna": "my own very secret sentence", "ben": "turn left at the next corner"}


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _clip(path: Path, seed: int) -> Path:
    samples = np.random.default_rng(seed).normal(0, 0.1, 4000).astype(np.float32)
    write_audio(path, samples)
    return path


def _run(folder: Path, train: Path, adapter: bytes, lineage: list[dict[str, Any]]) -> None:
    """A run folder as far as it matters here."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(adapter)
    record = {"job": "train", "settings": {"data": {"train": str(train)}}, "lineage": lineage,
              "data": {"train": sha256_of(train)}, "status": "finished"}  # fmt: skip
    write_json(folder / "run.json", record)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Two people's manifests, runs (one of both, one that goes on from it), reports, a package."""
    desk = tmp_path / "desk"
    rows = []
    for number, speaker in enumerate(("anna", "ben", " anna ")):
        audio = _clip(desk / "audio" / f"clip{number}.wav", number)
        rows.append({"audio": f"audio/{audio.name}", "text": _TEXTS[speaker.strip()],
                     "speaker": speaker, "id": f"{speaker.strip()}-{number:04d}"})  # fmt: skip
    _lines(desk / "train.jsonl", rows)
    _lines(desk / "ben.jsonl", [row for row in rows if row["speaker"] == "ben"])
    _run(desk / "runs" / "a", desk / "train.jsonl", b"a", [])
    sha = hashlib.sha256(b"a").hexdigest()
    _run(desk / "runs" / "b", desk / "ben.jsonl", b"b", [{"adapter_sha256": sha}])
    _run(desk / "runs" / "c", desk / "ben.jsonl", b"c", [])
    scored = [{"id": row["id"], "reference": row["text"], "hypothesis": row["text"],
               "speaker": row["speaker"].strip()} for row in rows]  # fmt: skip
    _lines(desk / "runs" / "a" / "eval" / "dev.jsonl", scored)
    known = [{"manifest": "train", "use": "train", "id": row["id"], "fingerprint": "0",
              "speaker": row["speaker"].strip()} for row in rows]  # fmt: skip
    _lines(desk / "runs" / "a" / "recordings.jsonl", known)
    for name in ("a", "c"):
        page = f"<p>moonshine-tune: {'anna-0000' if name == 'a' else 'nobody'}"
        (desk / "runs" / name / "report.html").write_text(page, encoding="utf-8")
    (desk / "notes.html").write_text(f"<p>{_TEXTS['anna']}", encoding="utf-8")
    write_json(desk / "eval" / "result.json", {"by_speaker": {"anna": 9.0, "ben": 1.0},
                                               "worst": [scored[0], scored[1]]})  # fmt: skip
    side = {"sha256": sha256_of(desk / "train.jsonl"), "voices": {"names": ["anna", "ben"]}}
    write_json(desk / "split.json", {"sides": {"train": side}})
    shards = cache_root() / "encoder-states" / "x"
    shards.mkdir(parents=True)
    for number, name in ((0, "hers"), (1, "his")):
        key = f"{sha256_of(desk / 'audio' / f'clip{number}.wav')}:0:None:augmented"
        save_file({key: np.zeros(2, np.float32)}, shards / f"{name}.safetensors")
    write_json(cache_root() / "replay-texts" / "x.json", {})
    write_json(desk / "packed" / "package.json", {})
    write_json(desk / "packed" / "run.json", {"lineage": [{"adapter_sha256": sha}]})
    _clip(desk / "packed" / "sample" / "clip-1.wav", 2)
    pack(desk / "packed", "packed", desk / "sent.tar.gz")
    return desk


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_plan_changes_nothing_and_names_what_learned(
    desk: Path, ask: Callable[..., Answer]
) -> None:
    before = _everything(desk)
    code, plan = ask("data", "forget", "anna", "--in", desk)
    assert code == 0 and plan["done"] is False and _everything(desk) == before
    assert plan["utterances"] == 2 and len(plan["recordings"]) == 2
    assert {Path(name).name: todo.split()[0] for name, todo in plan["learned"].items()} == {
        "a": "train", "b": "train", "packed": "pack", "sent.tar.gz": "pack",
    }  # fmt: skip
    deleted = [Path(name).name for name in plan["deleted"]]
    assert deleted == ["report.html", "packed", "sent.tar.gz"]


def test_a_person_is_taken_out_and_the_others_stay(desk: Path, ask: Callable[..., Answer]) -> None:
    his = (desk / "train.jsonl").read_text().splitlines()[1]
    assert ask("data", "forget", "anna", "--in", desk, "--yes")[1]["done"] is True
    assert (desk / "train.jsonl").read_text() == his + "\n"
    (line,) = (desk / "runs" / "a" / "eval" / "dev.jsonl").read_text().splitlines()
    assert json.loads(line)["speaker"] == "ben"
    (line,) = (desk / "runs" / "a" / "recordings.jsonl").read_text().splitlines()
    assert json.loads(line)["speaker"] == "ben"
    result = json.loads((desk / "eval" / "result.json").read_text())
    assert list(result["by_speaker"]) == ["ben"] and len(result["worst"]) == 1
    side = json.loads((desk / "split.json").read_text())["sides"]["train"]
    assert side == {"sha256": sha256_of(desk / "train.jsonl"), "voices": {"names": ["ben"]}}
    assert not (desk / "runs" / "a" / "report.html").exists() and not (desk / "packed").exists()
    # Not of this program, or of other people; recordings only go if that is asked for.
    assert (desk / "notes.html").exists() and (desk / "runs" / "c" / "report.html").exists()
    assert len(list((desk / "audio").iterdir())) == 3
    assert [p.name for p in cache_root().rglob("*.safetensors")] == ["his.safetensors"]
    assert not list((cache_root() / "replay-texts").iterdir())
    record = (desk / "forgotten.json").read_text()
    assert json.loads(record)["forgotten"][0]["utterances"] == 2 and "secret" not in record
    written = b"".join(
        data for name, data in _everything(desk).items() if not name.endswith("notes.html")
    )
    assert b"secret" not in written
    code, refused = ask("data", "forget", "anna", "--in", desk)
    assert code == 2 and "no recording of 'anna'" in refused["error"]["message"]


def test_recordings_are_deleted_where_nobody_else_speaks_in_them(
    desk: Path, ask: Callable[..., Answer]
) -> None:
    rows = [{"audio": "audio/clip0.wav", "start": 0.1, "end": 0.2, "speaker": "ben", "text": "yes"}]
    _lines(desk / "spans.jsonl", rows)
    code, done = ask("data", "forget", "anna", "--in", desk, "--audio", "--yes")
    assert code == 0 and [Path(name).name for name in done["shared"]] == ["clip0.wav"]
    assert {path.name for path in (desk / "audio").iterdir()} == {"clip0.wav", "clip1.wav"}


def test_lines_without_an_id_keep_their_number(tmp_path: Path, ask: Callable[..., Answer]) -> None:
    broken = '{"audio": 3}\n'
    rows = [{"audio": f"{n}.wav", "text": "a b c", "speaker": n} for n in ("anna", "ben")]
    _lines(tmp_path / "m.jsonl", rows)
    path = tmp_path / "m.jsonl"
    path.write_text(path.read_text() + broken, encoding="utf-8")
    his = path.read_text().splitlines()[1]
    # The name in two code points, with spaces around it.
    assert ask("data", "forget", " anna ", "--manifest", path, "--yes")[0] == 0
    assert path.read_text() == f"\n{his}\n{broken}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["anna"], "nowhere to look"),
        (["Anna", "--in", "."], "did you mean 'anna'"),
        (["unknown", "--in", "."], "not the name of a person"),
        (["anna", "--in", "gone"], "no such file or folder"),
        (["SPEAKER_00", "--in", "labels"], "starts anew in each"),
    ],
)
def test_a_wrong_request_is_refused(
    desk: Path, words: list[str], message: str, ask: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(desk)
    labels = [{"audio": f"{n}.wav", "text": "yes", "speaker": f"SPEAKER_0{label}"}
              for n in range(3) for label in range(2)]  # fmt: skip
    _lines(desk / "labels" / "m.jsonl", labels)
    code, refused = ask("data", "forget", *words, "--yes")
    assert code == 2 and message in refused["error"]["message"]
