"""Merging into a plain checkpoint, and adapters that other tools made with PEFT."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.audio.samples import Samples
from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.export.merged_checkpoint import merge, merge_into
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE
from moonshine_tune.models.lora import load_adapter
from moonshine_tune.models.merge import merged_weights

pytestmark = pytest.mark.usefixtures("one_thread")

_QUIET = SilentProgress()
Build = Callable[..., SpeechModel]


@pytest.fixture(scope="module")
def audio(make_clip: Callable[..., Samples]) -> tuple[Tensor, list[int]]:
    return pad_clips([make_clip(1.1, 1)], "cpu")  # type: ignore[arg-type]


def _logits(model: SpeechModel, audio: tuple[Tensor, list[int]]) -> Tensor:
    with torch.no_grad():
        return model.decoder_logits(model.encode(*audio), torch.tensor([[1, 270, 280, 290]]))


def _foreign(module: Any, folder: Path, **settings: Any) -> Path:
    """An adapter that PEFT alone makes and saves."""
    from peft import LoraConfig, get_peft_model

    settings = {"target_modules": ["q_proj", "v_proj"]} | settings
    wrapped = get_peft_model(module, LoraConfig(r=4, lora_alpha=8, **settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if ".lora_A" in name or ".lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
            elif "lora_magnitude" in name:
                value.mul_(1.3)
    wrapped.save_pretrained(folder)
    return folder


_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 20}},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "by expression": {"target_modules": r".*decoder.*\.(fc1|fc2)"},
}


@pytest.mark.parametrize("kind", list(_KINDS))
@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_an_adapter_of_plain_peft_loads_and_merges(
    build_model: Build, audio: tuple[Tensor, list[int]], tmp_path: Path, family: str, kind: str
) -> None:
    theirs = build_model(family)
    before = _logits(theirs, audio)
    folder = _foreign(theirs.module, tmp_path / "adapter", **_KINDS[kind])
    expected = _logits(theirs, audio)
    assert not torch.allclose(expected, before, atol=1e-2)
    ours = build_model(family)
    load_adapter(ours, folder)
    torch.testing.assert_close(_logits(ours, audio), expected)
    plain = build_model(family)
    merged = merged_weights(ours)
    missing, unexpected = plain.module.load_state_dict(merged, strict=False)
    assert not unexpected and missing
    torch.testing.assert_close(_logits(plain, audio), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    ],
)
def test_parts_that_would_be_lost_are_refused(
    build_model: Build, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    folder = _foreign(build_model("v1").module, tmp_path / "adapter")
    path = folder / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RequestError, match=named):
        load_adapter(build_model("v1"), folder)


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_a_merged_checkpoint_is_a_plain_one(
    request: pytest.FixtureRequest,
    build_model: Build,
    audio: tuple[Tensor, list[int]],
    tmp_path: Path,
    family: str,
) -> None:
    saved: Path = request.getfixturevalue(f"saved_{family}")
    theirs = build_model(family)
    folder = _foreign(theirs.module, tmp_path / "adapter")
    result = merge(folder, tmp_path / "merged", progress=_QUIET, model=str(saved))
    base, state = (load_file(path / "model.safetensors") for path in (saved, tmp_path / "merged"))
    assert state.keys() == base.keys() and result.tensors == len(base)
    changed = [name for name in base if not torch.equal(base[name], state[name])]
    assert len(changed) == result.changed == 2 * (2 + 2 * 2)
    assert all(state[name].dtype == base[name].dtype for name in base)
    again = load_checkpoint(tmp_path / "merged")
    torch.testing.assert_close(_logits(again, audio), _logits(theirs, audio), atol=2e-4, rtol=1e-4)
    assert again.tokenizer.encode("it was") == theirs.tokenizer.encode("it was")
    with pytest.raises(RequestError, match="output path exists"):
        merge(folder, tmp_path / "merged", progress=_QUIET, model=str(saved))


def test_a_head_that_the_base_does_not_have_is_refused_with_its_name(
    build_model: Build, saved_v1: Path, tmp_path: Path
) -> None:
    """v1 has one matrix for embedding and head; an adapter on the head alone would untie them.

    Some versions of transformers store it a second time as the head.
    """
    stored = shutil.copytree(saved_v1, tmp_path / "stored")
    state = load_file(stored / "model.safetensors")
    head = state["model.decoder.embed_tokens.weight"].clone()
    save_file(state | {"proj_out.weight": head}, stored / "model.safetensors", {"format": "pt"})
    folder = _foreign(
        build_model("v1").module, tmp_path / "adapter", target_modules=["q_proj", "proj_out"]
    )
    for base in (saved_v1, stored):
        with pytest.raises(ProblemsError, match="1 merged tensors are not those") as caught:
            merge(folder, tmp_path / "merged", progress=_QUIET, model=str(base))
        assert caught.value.problems == ("proj_out.weight: the base has none",)
        assert not (tmp_path / "merged").exists()


def test_another_shape_is_refused() -> None:
    state = {"a.weight": torch.zeros(2, 3)}
    with pytest.raises(ProblemsError, match=r"\(3, 2\) instead of \(2, 3\)"):
        merge_into(state, {"a.weight": torch.zeros(3, 2)})


def test_the_command_answers_with_json(
    build_model: Build, saved_v1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _foreign(build_model("v1").module, tmp_path / "adapter")
    words = ["merge", "--run", str(folder), "--out", str(tmp_path / "m"), "--json"]
    assert run(words) == 2
    assert "--model" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["hint"]
    assert run([*words, "--model", str(saved_v1)]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["changed"] == 12 and Path(record["checkpoint_dir"]) == tmp_path / "m"
