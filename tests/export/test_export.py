"""Exporting the real tiny: fully tuned, traced, and every wrong folder that one can name."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.export.calibration import clips_of_run
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.tensors import model_tensors, tuned_tensors
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.registry.base_model import base_identity
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.layout import STREAMING_FILES
from moonshine_tune.runtime.ort_file import OrtFile

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("one_thread")]

Answer = tuple[int, dict[str, Any]]
Build = Callable[..., SpeechModel]
_REFERENCE = "Ever tried, ever failed, no matter, try again, fail again, fail better."


@pytest.fixture(scope="module")
def clips(wheel_assets: WheelAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of one clip with its text, and one of the same clip without."""
    folder = tmp_path_factory.mktemp("clips")
    write_audio(folder / "beckett.wav", load_audio(wheel_assets.beckett))
    line = {"id": "beckett", "audio": "beckett.wav"}
    (folder / "texts.jsonl").write_text(json.dumps(line | {"text": _REFERENCE}) + "\n")
    (folder / "no-texts.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.fixture(scope="module")
def adapter(real_tiny: ResolvedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A faint adapter of the real tiny."""
    folder = tmp_path_factory.mktemp("adapter")
    model = load_checkpoint(real_tiny.checkpoint_dir)
    inject_lora(model, rank=2, sites="decoder", seed=1)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            if ".lora_B" in name:
                value.copy_(2e-4 * torch.randn(value.shape, generator=rng))
    save_adapter(folder, model, adapter_state(model), base=base_identity(real_tiny))
    return folder


# --- rounding


def _rounded(
    ask: Callable[..., Answer], adapter: Path, clips: Path, out: Path, *words: object
) -> dict[str, Any]:
    code, result = ask("export", "--run", adapter, "--model", "tiny", "--manifest",
                      clips / "texts.jsonl", "--out", out, *words)  # fmt: skip
    assert code == 0, result
    return result


def test_rounding_is_calibrated_on_the_clips_of_a_manifest(
    adapter: Path, clips: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    """The adapter alone names no manifests: dithered, unless a manifest is given."""
    alone = _rounded(ask, adapter, clips, tmp_path / "alone")
    assert alone["rounding"].startswith("dithered") and not alone["calibrated"]
    assert alone["worst_step_error"] <= 1.01
    plain = _rounded(ask, adapter, clips, tmp_path / "plain", "--calibrate", "none")
    assert plain["sha256"] == alone["sha256"] and plain["calibrate"] == "none"
    calibrated = _rounded(
        ask, adapter, clips, tmp_path / "calibrated", "--calibrate", clips / "texts.jsonl"
    )
    assert calibrated["rounding"] == "errors compensated on 1 clips of texts.jsonl"

    def off(result: dict[str, Any]) -> float:
        return next(g["relative"] for g in result["parity"]["graphs"] if g["output"] == "logits")

    # How much closer, `test_rounding.py` says. On one clip the 8 bits of the activations hide it.
    assert calibrated["sha256"] != plain["sha256"]
    assert off(calibrated) < 1.2 * off(plain)


def test_a_runs_own_clips_are_found_where_they_still_are(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(8_000, np.float32))
    for name, count in (("train", 60), ("replay", 3)):
        lines = [{"id": f"{name}{n}", "audio": "a.wav", "duration": 0.5 if n else 30.0}
                 for n in range(count)]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    run = RunFolder.create(tmp_path / "run")
    data = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "replay")}
    run.write_record(settings={"data": data | {"dev": None}})
    result = clips_of_run(run.path)
    taught = [item.id for item in result if item.id.startswith("train/")]
    assert len(taught) == 24 and len(set(taught)) == 24
    # The long one is left out.
    assert [item.id for item in result[24:]] == ["replay/replay1", "replay/replay2"]
    (tmp_path / "replay.jsonl").unlink()
    assert len(clips_of_run(run.path)) == 24
    (tmp_path / "train.jsonl").unlink()
    assert clips_of_run(run.path) == []
    assert clips_of_run(tmp_path) == []


# --- fully tuned


def test_a_fully_tuned_checkpoint_is_grafted_into_its_bases_files(
    real_tiny: ResolvedModel, clips: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    """Embedding and head, a convolution, a norm, a bias and a matrix at once."""
    weights = load_file(real_tiny.checkpoint_dir / "model.safetensors")
    names = ("model.decoder.embed_tokens.weight", "model.encoder.conv2.weight",
             "model.encoder.conv2.bias", "model.decoder.layers.2.final_layernorm.weight",
             "model.decoder.layers.2.mlp.fc1.weight", "model.encoder.groupnorm.weight")  # fmt: skip
    rng = np.random.default_rng(3)
    for name in names:
        noise = rng.standard_normal(weights[name].shape) * weights[name].std()
        weights[name] = (weights[name] + 0.01 * noise).astype(np.float32)
    shutil.copytree(real_tiny.checkpoint_dir, tmp_path / "tuned")
    save_file(weights, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    code, result = ask(
        "export", "--checkpoint", tmp_path / "tuned", "--model", "tiny", "--manifest",
        clips / "texts.jsonl", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, result
    assert result["changed"] == result["matrices"] == len(names)
    assert result["changed_files"] == ["encoder_model.ort", "decoder_model_merged.ort"]
    assert result["parity"]["weights"]["checked"] > 150 and result["parity"]["identical"] == 1
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["base"]["name"] == "tiny" and len(record["checkpoint_sha256"]) == 64
    assert record["checkpoint_sha256"] != record["base"]["sha256"]


def test_tensors_of_another_shape_and_numbers_of_the_graph_are_refused(build_model: Build) -> None:
    base, tuned = build_model("streaming"), build_model("streaming")
    assert tuned_tensors(base, tuned).after == {}
    with torch.no_grad():
        tuned.module.model.encoder.embedder.comp.log_k += 1
        tuned.module.proj_out.weight += 1
    with pytest.raises(ProblemsError, match="have no tensor") as caught:
        tuned_tensors(base, tuned)
    assert caught.value.problems == ("model.encoder.embedder.comp.log_k",)
    assert "--method trace" in (caught.value.hint or "")
    with pytest.raises(ProblemsError, match="not those of its base") as caught:
        tuned_tensors(build_model("v1"), tuned)
    assert any("only in the base" in problem for problem in caught.value.problems)


def test_a_head_that_was_untied_is_refused(build_model: Build) -> None:
    base, tuned = build_model("v1"), build_model("v1")
    tuned.module.proj_out.weight = torch.nn.Parameter(base.module.proj_out.weight + 1)
    with pytest.raises(ProblemsError, match="have no tensor") as caught:
        tuned_tensors(base, tuned)
    assert caught.value.problems == ("proj_out.weight",)


# --- traced


def test_a_traced_tiny_loads_in_the_runtime_and_passes_the_gate(
    adapter: Path, clips: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    code, result = ask(
        "export", "--run", adapter, "--model", "tiny", "--method", "trace", "--manifest",
        clips / "no-texts.jsonl", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, result
    assert (result["method"], result["quantize"]) == ("trace", "int8")
    assert result["parity"]["tokens"]["agreement"] > 0.9
    assert result["parity"]["clips"] == 1 and "wer" not in result["parity"]
    # 8-bit matrices: as large as the published files.
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.ort"))
    assert 27e6 < size < 60e6


# --- wrong folders, full disks


def _another_size(folder: Path, build: Build, assets: WheelAssets) -> None:
    model = build("v1")
    build_graphs(model, model_tensors(model), folder)


def _another_family(folder: Path, build: Build, assets: WheelAssets) -> None:
    for name in STREAMING_FILES:
        (folder / name).write_bytes(b"{}")


def _another_language(folder: Path, build: Build, assets: WheelAssets) -> None:
    """The same shape, trained on something else."""
    shutil.copytree(assets.runtime_dir, folder, dirs_exist_ok=True)
    path = folder / "decoder_model_merged.ort"
    file = OrtFile.read(path)
    changes = {
        item.offset: file.array(item)[::-1].tobytes()
        for item in file.initializers
        if item.dtype == "u1" and len(item.shape) == 2
    }
    path.write_bytes(file.patched(changes))


def _onnx_files(folder: Path, build: Build, assets: WheelAssets) -> None:
    for name in ("encoder_model", "decoder_model_merged"):
        (folder / f"{name}.onnx").write_bytes(b"x")
    shutil.copyfile(assets.runtime_dir / "tokenizer.bin", folder / "tokenizer.bin")


def _cut_off(folder: Path, build: Build, assets: WheelAssets) -> None:
    shutil.copytree(assets.runtime_dir, folder, dirs_exist_ok=True)
    path = folder / "decoder_model_merged.ort"
    path.write_bytes(path.read_bytes()[:9_000_000])


def _lacking(folder: Path, build: Build, assets: WheelAssets) -> None:
    shutil.copytree(assets.runtime_dir, folder, dirs_exist_ok=True)
    (folder / "tokenizer.bin").unlink()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_another_size, "adapted matrices are not in the runtime files"),
        (_another_family, "runtime files of a streaming model"),
        (_another_language, "60 of 60 adapted matrices are not in the runtime files"),
        (_onnx_files, "this folder has .onnx instead: encoder_model.ort"),
        (_cut_off, "cut off"),
        (_lacking, "tokenizer.bin missing"),
    ],
)
def test_a_wrong_base_folder_is_one_plain_error_and_nothing_is_written(
    adapter: Path,
    clips: Path,
    build_model: Build,
    wheel_assets: WheelAssets,
    ask: Callable[..., Answer],
    tmp_path: Path,
    make: Callable[[Path, Build, WheelAssets], None],
    says: str,
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    make(folder, build_model, wheel_assets)
    (tmp_path / "place").mkdir()
    code, result = ask(
        "export", "--run", adapter, "--model", "tiny", "--base-runtime", folder, "--manifest",
        clips / "texts.jsonl", "--out", tmp_path / "place" / "out",
    )  # fmt: skip
    assert code == 2 and says in result["error"]["message"], result
    assert str(folder) in json.dumps(result["error"])
    assert not list((tmp_path / "place").iterdir())


def test_a_full_disk_leaves_nothing_behind(
    adapter: Path,
    clips: Path,
    ask: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "decoder_model_merged.ort":
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    monkeypatch.setattr("moonshine_tune.export.graft.shutil.copyfile", full)
    (tmp_path / "place").mkdir()
    code, result = ask("export", "--run", adapter, "--model", "tiny", "--manifest",
                      clips / "texts.jsonl", "--out", tmp_path / "place" / "out")  # fmt: skip
    assert code == 3 and "disk is full" in result["error"]["message"]
    assert not list((tmp_path / "place").iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name either a run or a checkpoint"),
        (("--run", "a", "--checkpoint", "b"), "name either a run or a checkpoint"),
        (("--checkpoint", "b"), "does not name the base"),
        (("--checkpoint", "b", "--model", "tiny", "--calibrate", "c"), "grafting an adapter"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_is_loaded(
    ask: Callable[..., Answer], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    code, result = ask("export", *words, "--out", tmp_path / "out")
    assert code == 2 and says in result["error"]["message"]
    assert result["error"]["hint"]
