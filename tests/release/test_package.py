"""Packages of made-up runs: what is in them, what never is, and what `verify` says to damage."""

import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner

from moonshine_tune.audio.io import write_audio
from moonshine_tune.cli import package as package_cli
from moonshine_tune.config.resolve import read_settings_file, resolve_settings
from moonshine_tune.core.errors import (
    MachineError,
    NegativeAnswerError,
    ProblemsError,
    RequestError,
)
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.release import verify as verify_job
from moonshine_tune.release.archive import files_below, write_sums
from moonshine_tune.release.inputs import PackageRequest
from moonshine_tune.release.package import package
from moonshine_tune.release.records import public_name
from moonshine_tune.release.verify import verify
from moonshine_tune.runtime import transcriber as runtime_transcriber
from moonshine_tune.runtime.layout import STREAMING_FILES

_QUIET = SilentProgress()
_SECRET = "planted-secret-4711"
_PRIVATE_TEXT = "the patient is called Rumpelstiltskin"


class _FakeRuntime:
    """Hears how many samples there are."""

    backend = "runtime"

    def __init__(self, runtime_dir: Path) -> None:
        assert (runtime_dir / "tokenizer.bin").is_file()

    def transcribe(self, clips: list[Any]) -> list[str]:
        return [f"I hear {len(clip)} samples" for clip in clips]

    def __enter__(self) -> "_FakeRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture(autouse=True)
def _fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_transcriber, "RuntimeTranscriber", _FakeRuntime)
    monkeypatch.setattr(verify_job, "RuntimeTranscriber", _FakeRuntime)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _manifest(folder: Path, name: str, clips: int) -> Path:
    lines = []
    for number in range(clips):
        audio = folder / "audio" / f"{name}-{number}.wav"
        tone = 0.1 * np.sin(np.arange(8000 + 160 * number) / 9)
        write_audio(audio, tone.astype(np.float32))
        lines.append(
            {"id": f"{name}{number}", "audio": f"audio/{audio.name}", "text": _PRIVATE_TEXT,
             "speaker": f"Ms Private {number}", "duration": 0.5 + 0.01 * number}
        )  # fmt: skip
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


class _Made:
    """A finished run with everything that `package` reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.test = _manifest(folder, "test", 5)
        manifests = {role: _manifest(folder, role, n) for role, n in (("train", 7), ("dev", 2))}
        self.run, self.runtime = folder / "run", folder / "exported"
        self.evaluation, self.base_evaluation = folder / "adapted", folder / "base"
        self.benchmark = folder / "bench"
        base = {
            "name": "streaming-tiny",
            "family": "streaming",
            "source": "cache",
            "sha256": "ba5e",
        }
        (self.run / "adapter").mkdir(parents=True)
        (self.run / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)))
        _write(
            self.run / "adapter" / "adapter_config.json",
            {"r": 8, "base_model_name_or_path": str(folder / "models" / "my-base")},
        )
        _write(self.run / "adapter" / "base_model.json", base)
        settings: dict[str, Any] = {
            "model": "streaming-tiny",
            "data": {"train": str(manifests["train"]), "dev": str(manifests["dev"]),
                     "normalizer": "basic-1", "max_clip_s": 30.0},
            "adapter": {"rank": 8, "sites": "decoder"},
            "train": {"steps": 100, "learning_rate": 3e-4},
        }  # fmt: skip
        candidates = {
            "baseline": {"step": 0, "dev_wer": 40.0, "canary_wer": 10.0},
            "best": {"step": 50, "dev_wer": 12.5, "canary_wer": 11.25},
        }
        self.record: dict[str, Any] = {
            "schema_version": 1, "command": ["moonshine-tune", "train", str(folder)],
            "created": "2026-01-01T00:00:00+00:00", "settings": settings,
            "sources": {"model": "flag"}, "base": base, "device": {"name": "cpu", "reason": "-"},
            "data": {role: sha256_of(path) for role, path in manifests.items()},
            "remarks": [f"{folder} was read"], "status": "finished", "seed": 0,
            "versions": {"python": "3.11.7", "moonshine-tune": "0.1.0", "torch": "2.13.0+cpu"},
            "platform": {"system": "Linux", "release": "kernel-of-mine", "arch": "x86_64"},
            "result": candidates | {"canary_held": True},
        }  # fmt: skip
        self.save_run()
        self.runtime.mkdir()
        for name in STREAMING_FILES:
            (self.runtime / name).write_bytes(name.encode() * 50)
        _write(self.runtime / "streaming_config.json", {"encoder_dim": 320})
        self.sums = {name: sha256_of(self.runtime / name) for name in STREAMING_FILES}
        self.save_export(passed=True)
        score = {"wer": 12.0, "cer": 3.0, "ci95": [10.0, 14.0], "utterances": 5, "backend": "torch",
                 "reference_words": 35, "normalizer": "basic-1", "model": "streaming-tiny",
                 "manifest_sha256": sha256_of(self.test), "adapter": "run",
                 "by_speaker": {"Ms Private 1": 12.0},
                 "worst": [{"id": "test1", "reference": _PRIVATE_TEXT}]}  # fmt: skip
        _write(self.evaluation / "result.json", score)
        _write(self.base_evaluation / "result.json", score | {"wer": 41.5, "adapter": None})
        self.save_benchmark(self.sums)

    def save_run(self) -> None:
        _write(self.run / "run.json", self.record)

    def save_export(self, *, passed: bool, **more: Any) -> None:
        parity = {"passed": passed, "word_difference": 1.25, "bound": 5.0, "clips": 9,
                  "identical": 8, "words": 80, "examples": [[_PRIVATE_TEXT, "x"]]}  # fmt: skip
        record = {"method": "graft", "sha256": self.sums, "parity": parity,
                  "base": self.record["base"]}  # fmt: skip
        _write(self.runtime / "export.json", record | more)

    def save_benchmark(self, sums: dict[str, str]) -> None:
        times = {"median": 43.0, "p95": 61.0, "max": 77.0}
        files = [{"name": n, "bytes": 10, "sha256": digest} for n, digest in sums.items()]
        record = {"runtime_dir": "exported", "machine": {"chip": "Apple M3"}, "clips": 5,
                  "latency_ms": times, "load_ms": times, "rtf": 0.02, "rounds": 4,
                  "by_length": [{"from_s": 5.0, "to_s": None, "clips": 5, "latency_ms": times}],
                  "memory_mb": {"peak": 321.0}, "files": files, "total_bytes": 5_000_000,
                  "manifest_sha256": sha256_of(self.test), "wer": None}  # fmt: skip
        _write(self.benchmark / "benchmark.json", record)

    def request(self, **changed: Any) -> PackageRequest:
        given: dict[str, Any] = {
            "run": self.run, "runtime_dir": self.runtime, "evaluations": (self.evaluation,),
            "base_evaluations": (self.base_evaluation,), "benchmark": self.benchmark,
            "sample": self.test,
        }  # fmt: skip
        return PackageRequest(**(given | changed))


@pytest.fixture
def made(tmp_path: Path) -> _Made:
    return _Made(tmp_path / "made")


# --- what is in a package


def test_it_verifies_in_another_place_after_everything_else_is_gone(
    made: _Made, tmp_path: Path
) -> None:
    result = package(made.request(), tmp_path / "out" / "model", _QUIET)
    assert result.missing == () and result.sample_clips == 3
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(tmp_path / "out" / "model", moved)
    shutil.rmtree(made.folder)
    shutil.rmtree(tmp_path / "out")
    found = verify(moved, _QUIET)
    assert found.passed and found.files == result.files, found.problems
    assert found.sample is not None and found.sample.identical == 3
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=moved).returncode == 0 \
        if shutil.which("sha256sum") else True  # fmt: skip


def test_the_card_is_filled_from_the_records(made: _Made, tmp_path: Path) -> None:
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "mit" and front["language"] == "en"
    assert "$" not in card.replace("$WORK", "")
    for figure in ("41.50", "12.00", "10.00–14.00", "40.00 % → 12.50 %", "11.25 %", "43 / 61 / 77",
                   "Apple M3", "321", "1.25 % of 80 words", "TINY_STREAMING",
                   made.record["data"]["train"], "learning_rate"):  # fmt: skip
        assert figure in card, figure
    assert "| train | 7 | 0.1 | 7 |" in card


def test_what_was_not_measured_is_said_to_be_so(made: _Made, tmp_path: Path) -> None:
    del made.record["result"]["best"]["canary_wer"]
    made.record["status"] = "interrupted"
    made.save_run()
    (made.runtime / "export.json").unlink()
    bare = PackageRequest(made.run, made.runtime)
    result = package(bare, tmp_path / "model", _QUIET)
    assert result.missing == ("evaluation", "benchmark", "export.json", "sample")
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert card.count("Not measured") == 4 and "interrupted" in card
    assert verify(tmp_path / "model", _QUIET).remarks == (
        "no sample in it: the model was loaded, but heard nothing",
    )


def test_nothing_private_is_in_any_file(
    made: _Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", _SECRET)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    package(made.request(), tmp_path / "model", _QUIET)
    private = (_SECRET, str(tmp_path), _PRIVATE_TEXT, "Ms Private", "kernel-of-mine")
    for name in files_below(tmp_path / "model"):
        content = (tmp_path / "model" / name).read_bytes()
        assert not [word for word in private if word.encode() in content], name
    config = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-base"


def test_a_secret_that_someone_wrote_into_a_setting_stops_it(
    made: _Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_TOKEN", _SECRET)
    made.record["settings"]["train"]["note"] = f"used {_SECRET}"
    made.save_run()
    with pytest.raises(ProblemsError, match="MY_API_TOKEN") as caught:
        package(made.request(), tmp_path / "model", _QUIET)
    assert _SECRET not in str(caught.value)
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_names_of_models_stay_and_paths_lose_their_folders() -> None:
    assert public_name("moonshine-ai/moonshine-tiny") == "moonshine-ai/moonshine-tiny"
    assert public_name("/home/someone/models/mine") == "mine"
    assert public_name("~/models/mine") == "mine"
    assert public_name("C:\\Users\\someone\\mine") == "mine"


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_archives_are_the_same_bytes_each_time(made: _Made, tmp_path: Path, ending: str) -> None:
    sums = []
    for place in ("a", "b"):
        path = tmp_path / place / f"model.{ending}"
        sums.append(package(made.request(), path, _QUIET).sha256)
        os.utime(made.runtime / "tokenizer.bin", (1, 1))
        assert sha256_of(path) == sums[-1]
        assert verify(path, _QUIET).passed
        assert sorted(path.parent.iterdir()) == [path]
    assert sums[0] == sums[1]


# --- what does not belong together


def test_failed_parity_is_packed_only_when_asked_for(made: _Made, tmp_path: Path) -> None:
    made.save_export(passed=False)
    with pytest.raises(NegativeAnswerError, match="parity"):
        package(made.request(), tmp_path / "model", _QUIET)
    package(made.request(allow_failed_parity=True), tmp_path / "model", _QUIET)
    assert "**FAILED**" in (tmp_path / "model" / "README.md").read_text("utf-8")


def _changed_runtime(made: _Made) -> None:
    (made.runtime / "encoder.ort").write_bytes(b"other weights")


def _other_base(made: _Made) -> None:
    made.save_export(passed=True, base={"sha256": "0ther"})


def _other_adapter(made: _Made) -> None:
    made.save_export(passed=True, adapter_sha256="0" * 64)


def _other_benchmark(made: _Made) -> None:
    made.save_benchmark(made.sums | {"encoder.ort": "0" * 64})


def _no_adapter(made: _Made) -> None:
    (made.run / "adapter" / "adapter_model.safetensors").unlink()


def _not_an_evaluation(made: _Made) -> None:
    _write(made.evaluation / "result.json", {"something": "else"})


def _broken_run(made: _Made) -> None:
    (made.run / "run.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_changed_runtime, "not the file that was exported"),
        (_other_base, "another base model"),
        (_other_adapter, "another adapter"),
        (_other_benchmark, "of other files"),
        (_no_adapter, "adapter_model.safetensors missing"),
        (_not_an_evaluation, "has no WER"),
        (_broken_run, "cannot be read"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    made: _Made, tmp_path: Path, fault: Callable[[_Made], None], words: str
) -> None:
    fault(made)
    with pytest.raises((RequestError, NegativeAnswerError), match=words):
        package(made.request(), tmp_path / "out" / "model.zip", _QUIET)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_is_there_is_never_overwritten(made: _Made, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_text("mine")
    with pytest.raises(RequestError, match="something already"):
        package(made.request(), path, _QUIET)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["model", "model.tar.gz", "model.zip"])
def test_a_full_disk_leaves_nothing_behind(
    made: _Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # The last thing that is written: everything else lies there already.
    monkeypatch.setattr("moonshine_tune.release.package.write_sums", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(MachineError, match="disk is full") as caught:
        package(made.request(), tmp_path / "out" / name, _QUIET)
    assert caught.value.exit_code == 3
    assert not list((tmp_path / "out").iterdir())


# --- damage


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one package as folder, model.tar.gz and model.zip. Read only."""
    place = tmp_path_factory.mktemp("packed")
    made = _Made(place / "made")
    patch = pytest.MonkeyPatch()
    patch.setattr(runtime_transcriber, "RuntimeTranscriber", _FakeRuntime)
    for name in ("model", "model.tar.gz", "model.zip"):
        package(made.request(), place / name, _QUIET)
    patch.undo()
    return place


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << (place % 8)
    path.write_bytes(bytes(data))


def test_one_changed_byte_in_any_file_fails_and_names_it(packed: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    for name in files_below(packed / "model"):
        copy = tmp_path / "copy"
        shutil.copytree(packed / "model", copy)
        _flip(copy / name, chance.randrange(1 << 30))
        found = verify(copy, _QUIET)
        assert not found.passed, name
        # A changed character of the list may name another file, or none.
        assert name == "SHA256SUMS" or found.problems[0] == f"{name}: not the recorded content"
        shutil.rmtree(copy)


def test_every_changed_byte_of_the_list_of_sums_fails(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed / "model", copy)
    sums = copy / "SHA256SUMS"
    whole = sums.read_bytes()
    for place in range(0, len(whole), 7):
        _flip(sums, place)
        assert not verify(copy, _QUIET).passed, place
        sums.write_bytes(whole)
    sums.write_bytes(whole.replace(b"\n", b"\r\n"))
    assert not verify(copy, _QUIET).passed
    sums.unlink()
    assert verify(copy, _QUIET).problems == ("SHA256SUMS: missing",)


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_one_changed_byte_anywhere_in_an_archive_fails(
    packed: Path, tmp_path: Path, ending: str
) -> None:
    copy = tmp_path / f"model.{ending}"
    size = (packed / copy.name).stat().st_size
    chance = random.Random(11)
    places = [*range(14), *(size - 1 - n for n in range(30)),
              *(chance.randrange(size) for _ in range(60))]  # fmt: skip
    for place in places:
        shutil.copyfile(packed / copy.name, copy)
        _flip(copy, place)
        try:
            assert not verify(copy, _QUIET).passed, place
        except RequestError:
            # The name of a member changed to one that is refused.
            continue


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_a_cut_or_lengthened_archive_fails(packed: Path, tmp_path: Path, ending: str) -> None:
    whole = (packed / f"model.{ending}").read_bytes()
    copy = tmp_path / f"model.{ending}"
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:5], b"", whole + b"\0"):
        copy.write_bytes(data)
        assert not verify(copy, _QUIET).passed, len(data)


def test_missing_extra_and_linked_files_fail(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed / "model", copy)
    (copy / "runtime" / "extra.ort").write_bytes(b"x")
    assert verify(copy, _QUIET).problems == ("runtime/extra.ort: not listed in SHA256SUMS",)
    (copy / "runtime" / "extra.ort").unlink()
    (copy / "runtime" / "encoder.ort").unlink()
    assert verify(copy, _QUIET).problems == ("runtime/encoder.ort: missing",)
    (copy / "runtime" / "encoder.ort").symlink_to(packed / "model" / "runtime" / "encoder.ort")
    assert verify(copy, _QUIET).problems == ("runtime/encoder.ort: a link, not a file",)


def test_another_text_of_the_sample_fails_though_the_sums_hold(
    packed: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed / "model", copy)
    sample = copy / "sample" / "sample.jsonl"
    sample.write_text(sample.read_text().replace("I hear 8160", "I hear 4160"))
    write_sums(copy)
    found = verify(copy, _QUIET)
    assert found.problems == (
        "sample/clip-2.wav: recorded “I hear 4160 samples”, heard “I hear 8160 samples”",
    )
    # One of twelve words: within the bound of another kind of machine, and said so.
    sample.write_text(sample.read_text().replace('"arch": "', '"arch": "other-'))
    write_sums(copy)
    found = verify(copy, _QUIET)
    assert found.passed and "within the 10 % allowed" in found.remarks[0]
    assert not verify(copy, _QUIET, sample_bound=5.0).passed
    sample.write_text("{}\n")
    write_sums(copy)
    assert verify(copy, _QUIET).problems[0].startswith("sample/sample.jsonl: cannot be read")


# --- archives from strangers


def _tar_of(path: Path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"evil"[: member.size]))


def _tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = 4 if kind == tarfile.REGTYPE else 0
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_tar_member("../escaped")],
        [_tar_member("model/ok"), _tar_member("model/../../escaped")],
        [_tar_member("/tmp/escaped-by-absolute-name")],
        [_tar_member("C:/escaped")],
        [_tar_member("model\\..\\..\\escaped")],
        [_tar_member("model/link", tarfile.SYMTYPE, "../.."), _tar_member("model/link/escaped")],
        [_tar_member("model/hard", tarfile.LNKTYPE, "/etc/hostname")],
        [_tar_member("model/device", tarfile.CHRTYPE)],
        [_tar_member("model/twice"), _tar_member("model/twice")],
        [_tar_member("one/a"), _tar_member("two/b")],
    ],
)
def test_a_tar_that_reaches_outside_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tarfile.TarInfo]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    written: list[Path] = []
    monkeypatch.setattr(
        "moonshine_tune.release.archive._write", lambda path, _: written.append(path)
    )
    _tar_of(tmp_path / "p.tar.gz", *members)
    with pytest.raises(RequestError) as caught:
        verify(tmp_path / "p.tar.gz", _QUIET)
    assert caught.value.exit_code == 2 and not written
    assert not list(tmp_path.rglob("*escaped*"))
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "model/../../escaped", "a\\..\\b"])
def test_a_zip_that_reaches_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("model/SHA256SUMS", "")
        archive.writestr(name, "evil")
    with pytest.raises(RequestError, match="refused"):
        verify(tmp_path / "p.zip", _QUIET)


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("model/link")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr(member, "/etc")
    with pytest.raises(RequestError, match="is a link"):
        verify(tmp_path / "p.zip", _QUIET)


def test_what_is_no_package_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty.tar.gz").write_bytes(gzip.compress(b"\0" * 1024))
    for name in ("folder", "file.txt", "absent", "empty.tar.gz"):
        with pytest.raises(RequestError):
            verify(tmp_path / name, _QUIET)


# --- reproduce


def _scripts(packed: Path, tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    """A copy of the package, the log of a stand-in for the command, and an environment."""
    copy, log = tmp_path / "my model", tmp_path / "log"
    shutil.copytree(packed / "model", copy)
    command = tmp_path / "moonshine-tune"
    command.write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s|" "$word" >> ' + f'"{log}"; done\n'
        f'echo >> "{log}"\nmkdir -p "$WORK/run/adapter"\n'
        f'cp "{copy}/adapter/adapter_model.safetensors" "$WORK/run/adapter/"\n'
    )
    command.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "WORK": str(tmp_path / "work"),
                   "MOONSHINE_TUNE": str(command),
                   "TRAIN": str(packed / "made" / "train.jsonl"),
                   "DEV": str(packed / "made" / "dev.jsonl"),
                   "TEST_1": str(packed / "made" / "test.jsonl")}  # fmt: skip
    return copy, log, environment


def _sh(copy: Path, script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(copy / "reproduce" / script)], env=environment, capture_output=True, text=True
    )


def test_the_scripts_run_the_commands_on_the_recorded_manifests(
    packed: Path, tmp_path: Path
) -> None:
    copy, log, environment = _scripts(packed, tmp_path)
    done = _sh(copy, "train.sh", environment)
    assert done.returncode == 0, done.stderr
    assert "the same: the adapter" in done.stdout
    for script in ("evaluate.sh", "benchmark.sh"):
        assert _sh(copy, script, environment).returncode == 0
    train, evaluate, base, benchmark = log.read_text().splitlines()
    settings = f"{copy}/reproduce/settings.yaml"
    assert train.startswith(f"train|--config|{settings}|--train|{environment['TRAIN']}|--dev|")
    assert "--set|device.name=cpu|" in train
    assert "--adapter|" in evaluate and "--adapter|" not in base
    assert "--model|streaming-tiny|" in evaluate and "--model|streaming-tiny|" in base
    assert "--rounds|4|" in benchmark and environment["TEST_1"] in benchmark
    # Nothing was written into the package itself.
    assert verify(copy, _QUIET).passed
    resolved = resolve_settings([("file", read_settings_file(Path(settings)))])
    assert resolved.settings.train.learning_rate == 3e-4


def test_the_scripts_refuse_another_manifest_and_report_another_adapter(
    packed: Path, tmp_path: Path
) -> None:
    copy, log, environment = _scripts(packed, tmp_path)
    other = _sh(copy, "train.sh", environment | {"DEV": environment["TEST_1"]})
    assert other.returncode == 2 and "is not the manifest DEV" in other.stderr
    unnamed = _sh(copy, "train.sh", environment | {"DEV": ""})
    assert unnamed.returncode == 2 and "say where the manifest DEV lies" in unnamed.stderr
    assert not log.exists()
    (copy / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
    differs = _sh(copy, "train.sh", environment)
    assert differs.returncode == 1 and "not the same: the adapter" in differs.stdout


def test_names_cannot_break_out_of_the_scripts(made: _Made, tmp_path: Path) -> None:
    name = "x'; touch broken-out; '\n$(touch broken-out)"
    made.record["settings"]["model"] = name
    made.save_run()
    evil = made.folder / "e; touch broken-out"
    shutil.copytree(made.evaluation, evil)
    package(made.request(evaluations=(evil,)), tmp_path / "model", _QUIET)
    environment = {"PATH": os.environ["PATH"], "MOONSHINE_TUNE": "true", "HOME": str(tmp_path),
                   "WORK": str(tmp_path / "work"), "TEST_1": str(made.test)}  # fmt: skip
    for script in ("evaluate.sh", "export.sh", "benchmark.sh"):
        subprocess.run(["sh", str(tmp_path / "model" / "reproduce" / script)], cwd=tmp_path,
                       env=environment, capture_output=True)  # fmt: skip
    assert not list(tmp_path.rglob("broken-out"))


# --- the command line


def _app() -> typer.Typer:
    app = typer.Typer()
    package_cli.register(app)
    return app


def test_the_commands_answer_with_json_and_exit_codes(made: _Made, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "model.tar.gz"
    arguments = ["package", "--run", str(made.run), "--runtime-dir", str(made.runtime),
                 "--evaluation", str(made.evaluation), "--out", str(out), "--json"]  # fmt: skip
    done = runner.invoke(_app(), arguments)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert record["missing"] == ["benchmark", "sample"]
    good = runner.invoke(_app(), ["verify", str(out), "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout.splitlines()[-1])["passed"] is True
    _flip(out, 1000)
    bad = runner.invoke(_app(), ["verify", str(out), "--json"])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout.splitlines()[-1])["problems"]
    help_text = runner.invoke(_app(), ["verify", "--help"]).output
    assert "Example:" in help_text
