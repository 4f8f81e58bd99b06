"""Full fine-tuning from settings to a run: resume, larger steps, going on, merging, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training_runs import resolve

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.errors import MachineError, ProblemsError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.export.merged_checkpoint import merge
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_state, inject_lora, save_adapter
from moonshine_tune.runs.parent import with_parent
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

_QUIET = SilentProgress()


def _settings(training: Any, *names: str, **changes: Any) -> ResolvedSettings:
    """Six steps at rates that move a random model."""
    content = training.content(*names) | {
        "adapter": {"kind": "full", "sites": "all"},
        "train": {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "seed": 3,
                  "encoder_learning_rate": 5e-4},
        "select": {"every_steps": 2, "average_last": 2},
    }  # fmt: skip
    return resolve(content, **changes)


@pytest.fixture(scope="module")
def full_run(training: Any, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A run with canary, replay, late averages and strengths. Read only."""
    out = tmp_path_factory.mktemp("full") / "run"
    train(_settings(training, "canary", "replay"), out, _QUIET)
    return out


def test_a_resumed_run_is_the_same_bit_by_bit(
    full_run: Path, training: Any, tmp_path: Path
) -> None:
    settings = _settings(training, "canary", "replay")
    train(settings, tmp_path / "run", training.Watcher.interrupting(3))
    train(settings, tmp_path / "run", _QUIET, resume=True)
    assert training.is_same(full_run, tmp_path / "run")


def test_accumulation_does_not_change_the_step(
    full_run: Path, training: Any, tmp_path: Path
) -> None:
    small = {"train__batch_size": 1, "train__accumulation": 4, "train__steps": 1}
    train(_settings(training, "replay", **small), tmp_path / "run", _QUIET)
    together, apart = (next(line for line in training.lines(out) if "loss" in line)
                       for out in (full_run, tmp_path / "run"))  # fmt: skip
    assert apart["loss"] == pytest.approx(together["loss"], rel=1e-4)
    assert apart["gradient_norm"] == pytest.approx(together["gradient_norm"], rel=1e-3)


def test_the_run_is_merged_into_a_checkpoint(full_run: Path, training: Any, tmp_path: Path) -> None:
    saved = load_file(full_run / "adapter" / "adapter_model.safetensors")
    base = dict(load_checkpoint(training.model).module.named_parameters())
    assert len(saved) == 32
    assert all(bool((saved[name] != base[name]).any()) for name in saved)
    merge(full_run, tmp_path / "merged", progress=_QUIET)
    merged = dict(load_checkpoint(tmp_path / "merged").module.named_parameters())
    for name, value in merged.items():
        assert torch.equal(value, saved.get(name, base[name])), name


def test_a_run_goes_on_from_it_and_not_from_an_adapter(
    full_run: Path, training: Any, tmp_path: Path
) -> None:
    layer = ("flag", {"adapter": {"parent": str(full_run)}, "train": {"steps": 1},
                      "data": {"train": str(training.speech / "train.jsonl")}})  # fmt: skip
    resolved = resolve_settings(with_parent([layer]))
    adapter, rate = resolved.settings.adapter, resolved.settings.train.learning_rate
    assert (adapter.kind, adapter.sites, rate) == ("full", "all", 1e-3)
    result = train(resolved, tmp_path / "on", _QUIET)
    assert result.parent is not None and result.parent.dev_loss != result.baseline.dev_loss

    model = load_checkpoint(training.model)
    inject_lora(model, sites="all")
    (tmp_path / "lora").mkdir()
    save_adapter(tmp_path / "lora", model, adapter_state(model), base={"name": "small"})
    content = {"adapter": {"parent": str(tmp_path / "lora"), "kind": "full"}}
    resolved = resolve_settings(with_parent([("flag", content | {"data": layer[1]["data"]})]))
    with pytest.raises(ProblemsError, match="another shape") as refused:
        train(resolved, tmp_path / "refused", _QUIET)
    (problem,) = refused.value.problems
    assert problem == f"adapter.kind: lora in {tmp_path / 'lora'}, full by flag"


def test_what_does_not_fit_is_refused_with_what_takes_less(training: Any, tmp_path: Path) -> None:
    settings = _settings(training, device__budget_gib=0.01)
    with pytest.raises(MachineError, match="full fine-tuning") as refused:
        train(settings, tmp_path / "run", _QUIET)
    hint = str(refused.value.hint)
    assert "the decoder alone (--set train.encoder_learning_rate=0): " in hint
    assert "a LoRA adapter (without --full): " in hint
