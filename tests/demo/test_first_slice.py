"""The whole way on the real tiny model through the command line, on a small synthesized domain."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import read_manifest, write_manifest

pytestmark = [pytest.mark.real_model, pytest.mark.takes_minutes]

Answer = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, dev and test of a little air-traffic phraseology, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("data") / "flug funk é"
    for name, count, skip in (("train", 48, 0), ("dev", 8, 48), ("test", 12, 56)):
        words = ["data", "synth", "--grammar", "atc", "--count", str(count), "--skip", str(skip)]
        voices = "train" if name == "train" else "dev" if name == "dev" else "test"
        assert run([*words, "--voice-set", voices, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(domain: Path, real_tiny: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run: 75 steps of 8 utterances."""
    out = tmp_path_factory.mktemp("runs") / "a"
    code = run(
        ["train", "--preset", "demo", "--train", str(domain / "train" / "manifest.jsonl"),
         "--dev", str(domain / "dev" / "manifest.jsonl"), "--out", str(out),
         "--set", "train.steps=75", "--set", "select.every_steps=25"]
    )  # fmt: skip
    assert code == 0
    return out


def test_the_domain_is_learnt_and_the_interval_says_so(
    trained: Path, domain: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    code, result = ask(
        "evaluate", "--adapter", trained, "--manifest", domain / "test" / "manifest.jsonl",
        "--out", tmp_path / "e", "--normalizer", "spelled-1",
    )  # fmt: skip
    assert code == 0
    assert result["wer"] < 0.6 * result["base"]["wer"]
    assert result["comparison"]["verdict"] == "better"
    assert result["comparison"]["ci95"][1] < 0
    assert result["utterances"] == 12
    counted = result["substitutions"] + result["deletions"] + result["insertions"]
    assert result["wer"] == pytest.approx(100 * counted / result["reference_words"], abs=1e-3)
    lines = (tmp_path / "e" / "hypotheses.jsonl").read_text().splitlines()
    ids = {item.id for item in read_manifest(domain / "test" / "manifest.jsonl").utterances}
    assert {json.loads(line)["id"] for line in lines} == ids


def test_a_run_folder_explains_itself(trained: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["sources"]["train.steps"] == "--set"
    assert record["sources"]["adapter.rank"] == "preset demo"
    assert record["base"]["name"] == "tiny"
    assert record["result"]["last_loss"] < record["result"]["first_loss"]
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [item["step"] for item in steps if "loss" in item] == list(range(1, 76))
    assert {"adapter", "state", "tensorboard", "eval"} <= {path.name for path in trained.iterdir()}
    assert not list(trained.rglob("*.partial-*"))


def test_export_passes_parity_and_the_runtime_scores_the_same(
    trained: Path, domain: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    manifest = domain / "test" / "manifest.jsonl"
    out = tmp_path / "exported"
    # A short run leaves strange voices on the edge, where 8 bits decide: clips that it has learnt.
    code, exported = ask(
        "export", "--run", trained, "--out", out, "--base-runtime", Path(read_runtime_dir()),
        "--manifest", domain / "train" / "manifest.jsonl", "--parity-bound", "15",
    )  # fmt: skip
    assert code == 0, exported
    assert exported["changed_files"] == ["decoder_model_merged.ort"]
    # Clips of what was taught; no replay was named.
    assert exported["rounding"] == "errors compensated on 24 clips of the run"
    assert exported["calibrated"] and exported["calibrate"] == "auto"
    code, heard = ask("evaluate", "--runtime-dir", out, "--manifest", manifest)
    assert code == 0
    assert heard["backend"] == "runtime"
    assert len(heard["exported"]) == 64
    code, both = ask("evaluate", "--adapter", trained, "--runtime-dir", out, "--manifest", manifest)
    assert code == 0
    systems = {(item["side"], item["backend"]): item for item in both["systems"]}
    assert list(systems) == [("base", "torch"), ("adapted", "torch"), ("adapted", "runtime")]
    assert systems["adapted", "runtime"]["wer"] == heard["wer"]
    assert systems["adapted", "torch"]["wer"] == both["wer"]
    code, _ = ask("export", "--run", trained, "--out", out, "--manifest", manifest)
    assert code == 2


def read_runtime_dir() -> str:
    """The base runtime folder of tiny in the cache."""
    from moonshine_tune.registry.resolve import resolve_model

    return str(resolve_model("tiny", sources=("cache", "wheel")).runtime_dir)


def test_parity_says_no_with_an_exit_code(
    trained: Path, domain: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    """Base files with one scale of the encoder off by a factor of four are found out."""
    from moonshine_tune.runtime.ort_file import OrtFile
    from moonshine_tune.runtime.quantized import quantized_tensors

    base = Path(read_runtime_dir())
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    file = OrtFile.read(broken / "encoder_model.ort")
    tensor = next(iter(quantized_tensors(file)))
    doubled = (file.array(tensor.scale) * 4).astype("<f4").tobytes()
    (broken / "encoder_model.ort").write_bytes(file.patched({tensor.scale.offset: doubled}))
    code, result = ask(
        "export", "--run", trained, "--out", tmp_path / "x", "--base-runtime", broken,
        "--manifest", domain / "test" / "manifest.jsonl", "--calibrate", "none",
    )  # fmt: skip
    assert code == 1
    assert not result["parity"]["passed"]


def test_an_adapter_of_another_base_is_refused(
    trained: Path, domain: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    from moonshine_tune.registry.resolve import resolve_model

    other = tmp_path / "other"
    shutil.copytree(resolve_model("tiny", sources=("cache", "wheel")).checkpoint_dir, other)
    weights = load_file(other / "model.safetensors")
    weights["model.decoder.norm.weight"] = weights["model.decoder.norm.weight"] * 1.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    code, result = ask(
        "evaluate", "--model", other, "--adapter", trained,
        "--manifest", domain / "test" / "manifest.jsonl",
    )  # fmt: skip
    assert code == 2
    assert "another base model" in result["error"]["message"]


# The command line, but step 3 waits until the signal has arrived: the run cannot end before it.
_WAITS_FOR_CTRL_C = """
import sys, time
from pathlib import Path
from moonshine_tune.cli.app import run
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.signals import GracefulInterrupt

enter, show_figures, entered = GracefulInterrupt.__enter__, TerminalProgress.figures, []

def enter_and_note(self):
    entered.append(self)
    return enter(self)

def show_and_wait(self, step, values):
    show_figures(self, step, values)
    if step == 3:
        Path(sys.argv[1]).touch()
        while not entered[0].wanted:
            time.sleep(0.01)

GracefulInterrupt.__enter__, TerminalProgress.figures = enter_and_note, show_and_wait
sys.exit(run(sys.argv[2:]))
"""


def test_ctrl_c_saves_everything_and_resume_continues(domain: Path, tmp_path: Path) -> None:
    out, waits = tmp_path / "stopped", tmp_path / "waits"
    command = [
        sys.executable, "-c", _WAITS_FOR_CTRL_C, str(waits), "train", "--preset", "demo",
        "--train", str(domain / "train" / "manifest.jsonl"),
        "--dev", str(domain / "dev" / "manifest.jsonl"), "--out", str(out),
        "--set", "train.steps=12", "--set", "select.every_steps=6",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not waits.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "--resume" in stdout
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    done = json.loads((out / "state" / "state.json").read_text())["step"]
    assert done == 3
    assert run(["train", "--resume", "--out", str(out)]) == 0
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 13))


def test_wrong_input_is_one_plain_error(
    domain: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"audio": "a.wav", "text": "x"}\nnot json\n{"audio": "b.wav"}\n')
    code, result = ask("train", "--train", broken, "--out", tmp_path / "r")
    assert code == 2
    message = result["error"]["message"]
    assert f"{broken}:2: not JSON" in message
    assert f'{broken}:3: no "text"' in message
    assert f"{broken}:1: no such recording" in message
    assert not (tmp_path / "r" / "run.json").exists()
    settings = tmp_path / "s.yaml"
    settings.write_text("train:\n  learning_rat: 1\nadaptor:\n  rank: 8\n")
    code, result = ask("train", "--config", settings, "--out", tmp_path / "r2")
    assert code == 2
    assert "did you mean 'train.learning_rate'" in result["error"]["message"]
    assert "adaptor.rank" in result["error"]["message"]
    code, result = ask("evaluate", "--model", "tinny", "--manifest",
                       domain / "test" / "manifest.jsonl")  # fmt: skip
    assert code == 2
    assert "tiny" in (result["error"]["hint"] or "")


def test_an_unreadable_recording_is_named_and_nothing_is_scored_silently(
    domain: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    utterances = list(read_manifest(domain / "test" / "manifest.jsonl").utterances)[:3]
    fake = tmp_path / "fake.wav"
    fake.write_text("this is not sound")
    from dataclasses import replace

    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, [*utterances[:2], replace(utterances[2], audio=fake)])
    code, result = ask("evaluate", "--manifest", manifest)
    assert code == 2
    assert "fake.wav" in result["error"]["message"]
    assert "data check" in result["error"]["hint"]
