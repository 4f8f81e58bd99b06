"""Packages of made-up runs: what they hold and never hold, and the damage that `verify` finds."""

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
import yaml
from tests.release.made_up_run import PRIVATE_TEXT, MadeUpRun, write_json
from typer.testing import CliRunner

from moonshine_tune.cli import package as package_cli
from moonshine_tune.core.errors import (
    MachineError,
    NegativeAnswerError,
    ProblemsError,
    RequestError,
)
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.aliases import ALIAS_CODE
from moonshine_tune.release.archive import files_below, write_sums
from moonshine_tune.release.inputs import PackageRequest, public_name
from moonshine_tune.release.package import package
from moonshine_tune.release.verify import verify
from moonshine_tune.runs.kept_adapter import adapter_checksums, altered_adapter

pytestmark = pytest.mark.usefixtures("fake_runtime")

_QUIET = SilentProgress()
_SECRET = "planted-secret-4711"


# --- what is in a package


def test_aliases_come_with_code_that_applies_them(made: MadeUpRun, tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    term = {"term": "crayfish", "left_out": [{"text": PRIVATE_TEXT}]}
    record = {"schema_version": 1, "aliases": {"craiffish": "crayfish"}, "terms": [term]}
    write_json(path, record)
    package(replace(made.request(), aliases=path), tmp_path / "model", _QUIET)
    folder = tmp_path / "model" / "aliases"
    assert {item.name for item in folder.iterdir()} == {"aliases.json", *ALIAS_CODE}
    assert json.loads((folder / "aliases.json").read_text("utf-8")) == {
        "schema_version": 1, "aliases": {"craiffish": "crayfish"}
    }  # fmt: skip
    assert "1 texts" not in (card := (tmp_path / "model" / "README.md").read_text("utf-8"))
    assert "aliases/aliases.json" in card
    assert verify(tmp_path / "model", _QUIET).passed
    path.write_text('{"schema_version": 1}')
    with pytest.raises(RequestError, match="no alias"):
        package(replace(made.request(), aliases=path), tmp_path / "empty", _QUIET)


def test_a_moved_package_verifies_without_its_inputs(made: MadeUpRun, tmp_path: Path) -> None:
    result = package(made.request(), tmp_path / "out" / "model", _QUIET)
    assert result.missing == () and result.sample_clips == 3
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(tmp_path / "out" / "model", moved)
    shutil.rmtree(made.folder)
    shutil.rmtree(tmp_path / "out")
    result = verify(moved, _QUIET)
    assert result.passed and result.files == result.files, result.problems
    assert result.sample is not None and result.sample.identical == 3
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=moved).returncode == 0 \
        if shutil.which("sha256sum") else True  # fmt: skip


def test_the_card_says_what_was_synthetic_and_names_no_file_of_terms(
    made: MadeUpRun, tmp_path: Path
) -> None:
    made.record["synthetic"] = {"train": 7, "train_real": 0, "dev": 2, "dev_real": 0, "share": 1.0}
    made.record["settings"]["data"]["terms"] = str(made.folder / "Rumpelstiltskin.txt")
    made.save_run()
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "no real voice is in training or in the scores" in card
    written = [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".json", ".md", ".yaml")]
    assert written and not any("Rumpelstiltskin" in p.read_text("utf-8") for p in written)


def test_a_sum_of_adapters_is_made_again_by_combine(made: MadeUpRun, tmp_path: Path) -> None:
    scores = {"dev_wer": 20.0, "strengths": [0.5, 1.0], "dev_wers": {"dev": 30.0, "words": 10.0}}
    combined = [
        {"name": name, "adapter_sha256": digest * 64, "strength": strength, "alone": scores}
        for name, digest, strength in (("voice", "a", 0.5), ("words", "b", 1.0))
    ]
    made.record["result"] |= {"combined": combined, "tried": [scores], "best": scores}
    made.record["lineage"] = [
        {"path": str(made.folder / "voice"), "adapter_sha256": "a" * 64, "data": {}}
    ]
    made.save_run()
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "- 0.5 × adapter aaaaaaaaaaaa" in card and "went on from" not in card
    assert "the mean of dev 30.00 and words 10.00" in card
    again = (tmp_path / "model" / "reproduce" / "README.md").read_text("utf-8")
    assert 'moonshine-tune combine "$ADAPTER_1" "$ADAPTER_2" --strengths 0.5,1.0 --dev' in again
    assert "moonshine-tune train" not in again and "PARENT" not in again
    assert str(made.folder) not in (tmp_path / "model" / "run.json").read_text("utf-8")


def test_the_card_of_full_fine_tuning_names_no_adapter(made: MadeUpRun, tmp_path: Path) -> None:
    made.record["settings"]["adapter"]["kind"] = "full"
    made.save_run()
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert "library_name" not in front and "lora" not in front["tags"]
    assert "fully fine-tuned by" in card and "moonshine-tune merge --run adapter" in card
    assert "LoRA" not in card


def test_the_card_is_filled_from_the_records(made: MadeUpRun, tmp_path: Path) -> None:
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "mit" and front["language"] == "en"
    scores = front["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in scores[0]["metrics"]] == [
        ("wer", 12.0), ("cer", 3.0)
    ]  # fmt: skip
    assert len(scores) == 1 and scores[0]["dataset"]["revision"] == sha256_of(made.test)
    for figure in ("41.50", "12.00", "10.00–14.00", "40.00 % → 12.50 %", "11.25 %", "43 / 61 / 77",
                   "Apple M3", "321", "1.25 % of 80 words", "TINY_STREAMING",
                   made.record["data"]["train"], "learning_rate"):  # fmt: skip
        assert figure in card, figure
    assert "| train | 7 | 0.1 | 7 |" in card
    row = "punctuation_error_rate | % | lower | 12.50 | 64.25 | 60.50–70.50 | 9 of 14 |"
    assert row in card


def test_the_card_names_what_was_not_measured(made: MadeUpRun, tmp_path: Path) -> None:
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
        "no sample in it: the model was loaded, but transcribed nothing",
    )


def test_records_that_say_little_are_enough(made: MadeUpRun, tmp_path: Path) -> None:
    """As of another version, or of files that were put together by hand."""
    write_json(made.run / "run.json", {"settings": {}, "base": {}})
    write_json(made.runtime / "export.json", {})
    files = [{"name": name, "sha256": digest} for name, digest in made.sums.items()]
    benchmark = {"files": files, "by_length": [{}], "ratios": {}, "stream": {}, "wer": {}}
    write_json(made.benchmark / "benchmark.json", benchmark)
    for folder in (made.evaluation, made.base_evaluation):
        write_json(folder / "result.json", {"wer": 1.5})
    package(made.request(), tmp_path / "model", _QUIET)
    assert verify(tmp_path / "model", _QUIET).passed
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "| adapted | – | 1.50 | – | 1.50 |" in card
    assert "Not measured: the runtime folder has no export.json with a parity result." in card


def test_nothing_private_is_in_any_file(
    made: MadeUpRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", _SECRET)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    package(made.request(), tmp_path / "model", _QUIET)
    private = (_SECRET, str(tmp_path), PRIVATE_TEXT, "Ms Private", "kernel-of-mine")
    for name in files_below(tmp_path / "model"):
        content = (tmp_path / "model" / name).read_bytes()
        assert not [word for word in private if word.encode() in content], name
    config = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-base"


def test_a_secret_that_someone_wrote_into_a_setting_stops_it(
    made: MadeUpRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("ending", ["tar.gz", "TGZ"])
def test_archives_are_the_same_bytes_each_time(
    made: MadeUpRun, tmp_path: Path, ending: str
) -> None:
    sums = []
    for folder in ("a", "b"):
        path = tmp_path / folder / f"model.{ending}"
        sums.append(package(made.request(), path, _QUIET).sha256)
        os.utime(made.runtime / "tokenizer.bin", (1, 1))
        assert sha256_of(path) == sums[-1]
        assert verify(path, _QUIET).passed
        assert sorted(path.parent.iterdir()) == [path]
    assert sums[0] == sums[1]


# --- what does not belong together


def test_failed_parity_is_packed_only_when_asked_for(made: MadeUpRun, tmp_path: Path) -> None:
    made.save_export(passed=False)
    with pytest.raises(NegativeAnswerError, match="parity"):
        package(made.request(), tmp_path / "model", _QUIET)
    package(made.request(allow_failed_parity=True), tmp_path / "model", _QUIET)
    assert "**FAILED**" in (tmp_path / "model" / "README.md").read_text("utf-8")


def _changed_runtime(made: MadeUpRun) -> None:
    (made.runtime / "encoder.ort").write_bytes(b"other weights")


def _other_base(made: MadeUpRun) -> None:
    made.save_export(passed=True, base={"sha256": "0ther"})


def _other_adapter(made: MadeUpRun) -> None:
    made.save_export(passed=True, adapter_sha256="0" * 64)


def _other_benchmark(made: MadeUpRun) -> None:
    made.save_benchmark(made.sums | {"encoder.ort": "0" * 64})


def _no_adapter(made: MadeUpRun) -> None:
    (made.run / "adapter" / "adapter_model.safetensors").unlink()


def _not_an_evaluation(made: MadeUpRun) -> None:
    write_json(made.evaluation / "result.json", {"something": "else"})


def _broken_run(made: MadeUpRun) -> None:
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
    made: MadeUpRun, tmp_path: Path, fault: Callable[[MadeUpRun], None], words: str
) -> None:
    fault(made)
    with pytest.raises((RequestError, NegativeAnswerError), match=words):
        package(made.request(), tmp_path / "out" / "model.tar.gz", _QUIET)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_existing_output_is_never_overwritten(made: MadeUpRun, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_text("mine")
    with pytest.raises(RequestError, match="the output path exists"):
        package(made.request(), path, _QUIET)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.bz2", "tar.xz", "7z"])
def test_other_archive_formats_are_refused_by_name(
    made: MadeUpRun, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"model.{ending}"
    with pytest.raises(RequestError, match=r"folders or \.tar\.gz archives"):
        package(made.request(), path, _QUIET)
    path.write_bytes(b"PK")
    with pytest.raises(RequestError, match=r"folders or \.tar\.gz archives"):
        verify(path, _QUIET)


@pytest.mark.parametrize("name", ["model", "model.tar.gz"])
def test_a_full_disk_leaves_nothing_behind(
    made: MadeUpRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
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


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << (position % 8)
    path.write_bytes(bytes(data))


def test_one_changed_byte_in_any_file_fails_and_names_it(packed: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    for name in files_below(packed / "model"):
        copy = tmp_path / "copy"
        shutil.copytree(packed / "model", copy)
        _flip(copy / name, rng.randrange(1 << 30))
        result = verify(copy, _QUIET)
        assert not result.passed, name
        # A changed character of the list may name another file, or none.
        assert name == "SHA256SUMS" or result.problems[0] == f"{name}: not the recorded content"
        shutil.rmtree(copy)


def test_every_changed_byte_of_the_list_of_sums_fails(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed / "model", copy)
    sums = copy / "SHA256SUMS"
    original = sums.read_bytes()
    for position in range(0, len(original), 7):
        _flip(sums, position)
        assert not verify(copy, _QUIET).passed, position
        sums.write_bytes(original)
    sums.write_bytes(original.replace(b"\n", b"\r\n"))
    assert not verify(copy, _QUIET).passed
    sums.unlink()
    assert verify(copy, _QUIET).problems == ("SHA256SUMS: missing",)


def test_one_changed_byte_anywhere_in_an_archive_fails(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.tar.gz"
    size = (packed / copy.name).stat().st_size
    rng = random.Random(11)
    positions = [*range(14), *(size - 1 - n for n in range(30)),
                 *(rng.randrange(size) for _ in range(60))]  # fmt: skip
    for position in positions:
        shutil.copyfile(packed / copy.name, copy)
        _flip(copy, position)
        assert not verify(copy, _QUIET).passed, position


def test_a_cut_or_lengthened_archive_fails(packed: Path, tmp_path: Path) -> None:
    original = (packed / "model.tar.gz").read_bytes()
    copy = tmp_path / "model.tar.gz"
    half = len(original) // 2
    for data in (original[:-1], original[:half], original[:5], b"", original + b"\0"):
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
    sample.write_text(sample.read_text().replace("counted 8160", "counted 4160"))
    write_sums(copy)
    result = verify(copy, _QUIET)
    assert result.problems == (
        "sample/clip-2.wav: recorded “it counted 4160 samples”, "
        "transcribed as “it counted 8160 samples”",
    )
    # One of twelve words: within the bound of another kind of machine.
    sample.write_text(sample.read_text().replace('"arch": "', '"arch": "other-'))
    write_sums(copy)
    result = verify(copy, _QUIET)
    assert result.passed and "within the 10 % allowed" in result.remarks[0]
    assert not verify(copy, _QUIET, sample_bound=5.0).passed
    sample.write_text("{}\n")
    write_sums(copy)
    assert verify(copy, _QUIET).problems[0].startswith("sample/sample.jsonl: cannot be read")


# --- the command line


def _app() -> typer.Typer:
    app = typer.Typer()
    package_cli.register(app)
    return app


def test_the_commands_answer_with_json_and_exit_codes(made: MadeUpRun, tmp_path: Path) -> None:
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
    assert bad.exit_code == 1 and isinstance(bad.exception, SystemExit), bad.exception
    assert json.loads(bad.stdout.splitlines()[-1])["problems"]
    help_text = runner.invoke(_app(), ["verify", "--help"]).output
    assert "Example:" in help_text


# --- parity that is not decided


_MARGIN = {"adapted": 7.5, "adapted_ci95": [0.0, 16.0], "base": 5.0, "difference": 2.5,
           "ci95": [-7.0, 12.0], "margin": 5.0, "verdict": "not decided", "clips": 40}  # fmt: skip


def test_what_is_not_decided_is_packed_and_the_card_and_verify_say_so(
    made: MadeUpRun, tmp_path: Path
) -> None:
    parity = {"passed": None, "verdict": "not decided", "word_difference": 7.5, "bound": 5.0,
              "clips": 40, "identical": 37, "words": 40, "examples": [[PRIVATE_TEXT, "x"]],
              "against_base": {"verdict": "not decided", "clips": 40, "words": _MARGIN,
                               "sources": {"private-set.jsonl": 40}}}  # fmt: skip
    made.save_export(passed=True, parity=parity)
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "**not decided**: too few clips" in card and "was not decided" in card
    assert "| words that differ | 7.50 | 5.00 | 2.50 | -7.00 to 12.00 | 5.00 | not d" in card
    exported = (tmp_path / "model" / "runtime" / "export.json").read_text("utf-8")
    assert "private-set" not in exported and PRIVATE_TEXT not in exported
    remarks = verify(tmp_path / "model", _QUIET).remarks
    assert "its export's parity was not decided: there were too few clips" in remarks


def test_the_card_shows_torch_and_runtime_by_speakers_without_names(
    made: MadeUpRun, tmp_path: Path
) -> None:
    file = made.evaluation / "result.json"
    record = json.loads(file.read_text("utf-8"))
    by_speaker = {"Ms Private 1": 12.0, "Mr Private 2": 30.0}
    counts = {name: {"utterances": 3, "words": 20} for name in by_speaker}
    systems = [
        {"side": side, "backend": backend, "wer": wer, "ci95": [1.0, 50.0], "utterances": 6,
         "by_speaker": by_speaker}
        for side, backend, wer in (("base", "torch", 24.1), ("adapted", "torch", 17.1),
                                   ("adapted", "runtime", 17.3))
    ]  # fmt: skip
    file.write_text(json.dumps(record | {"systems": systems, "speakers": counts}), "utf-8")
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "24.10 (1.00–50.00) | 17.10 (1.00–50.00) | 17.30 (1.00–50.00) |" in card
    assert "| speaker 1, 3 clips | 30.0 | 30.0 | 30.0 |" in card
    packed = "".join(p.read_text("utf-8", "ignore") for p in (tmp_path / "model").rglob("*.json"))
    assert "Private" not in packed + card


def test_an_evaluation_of_another_adapter_is_refused(made: MadeUpRun, tmp_path: Path) -> None:
    path = made.evaluation / "result.json"
    own = sha256_of(made.run / "adapter" / "adapter_model.safetensors")
    score = json.loads(path.read_text())
    write_json(path, score | {"adapter_sha256": own})
    package(made.request(), tmp_path / "own", _QUIET)
    for key in ("adapter_sha256", "exported"):
        write_json(path, score | {key: "0" * 64})
        with pytest.raises(RequestError, match="of another adapter than that of the run"):
            package(made.request(), tmp_path / "other", _QUIET)


def test_the_card_has_no_scores_of_other_weights(made: MadeUpRun, tmp_path: Path) -> None:
    adapter = made.run / "adapter"
    made.record["result"]["best"]["sha256"] = adapter_checksums(adapter)
    made.save_run()
    result = package(made.request(), tmp_path / "own", _QUIET)
    assert result.remarks == () and "12.50 %" in (tmp_path / "own" / "README.md").read_text()
    assert altered_adapter(tmp_path / "own" / "adapter") == ""
    (adapter / "adapter_model.safetensors").write_bytes(b"averaged with another one")
    result = package(made.request(), tmp_path / "altered", _QUIET)
    card = (tmp_path / "altered" / "README.md").read_text()
    assert "another one than that which the run chose" in result.remarks[0]
    assert result.remarks[0] in " ".join(card.split())
    assert "12.50 %" not in card and "11.25" not in card


def test_the_card_says_what_the_run_knows_of_a_test_set(made: MadeUpRun, tmp_path: Path) -> None:
    path = made.evaluation / "result.json"
    known = {"clips": 5, "used": {"train": 2}}
    write_json(path, json.loads(path.read_text()) | {"known_clips": known})
    package(made.request(), tmp_path / "model", _QUIET)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "2 of 5 clips are recordings of train of this run" in card
