"""Latency of a trial's exported files, measured on the real model's runtime folder."""

from pathlib import Path

import pytest

from moonshine_tune.ablation.latency import measure_latency, read_latency
from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.models.lora import adapter_state, inject_lora, save_adapter
from moonshine_tune.registry.open import open_model
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.runs.folder import RunFolder

pytestmark = [pytest.mark.real_model, pytest.mark.shared_data]


def test_an_adapter_costs_no_time_and_is_measured_once(
    shared_data: Path, real_tiny: ResolvedModel, tmp_path: Path
) -> None:
    quiet = SilentProgress()
    opened = open_model("tiny", device="cpu", dtype="float32", progress=quiet)
    inject_lora(opened.model, rank=2, alpha=4, dropout=0.0, sites="decoder", seed=0)
    run = RunFolder.create(tmp_path / "run")
    run.adapter_dir.mkdir()
    save_adapter(
        run.adapter_dir, opened.model, adapter_state(opened.model), scale=1.0, base=opened.base
    )
    clips = read_manifest(shared_data / "an4" / "test.jsonl").utterances[:3]
    dev = tmp_path / "dev.jsonl"
    write_manifest(dev, clips)
    settings = resolve_settings([("test", {"data": {"dev": str(dev)}})]).settings
    assert read_latency(run) is None
    ratio = measure_latency(run, settings, quiet)
    # A merged adapter changes numbers, not operations; the machine may be busy meanwhile.
    assert 0.4 < ratio < 2.5
    dev.unlink()
    assert measure_latency(run, settings, quiet) == pytest.approx(ratio, abs=1e-3)
