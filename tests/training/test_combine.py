"""Adapters of one base, combined into one with strengths chosen on dev."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.command_line import Answer

import moonshine_tune as mt
from moonshine_tune.cli.app import run
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import BETTER, NOT_BETTER_THAN_PART

pytestmark = pytest.mark.usefixtures("one_thread")

Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def adapters(saved_v1: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of one base, without runs; `words` is trained in other layers than `voice`."""
    folder = tmp_path_factory.mktemp("adapters")
    kinds: dict[str, dict[str, Any]] = {
        "voice": {"rank": 2, "sites": "all"},
        "words": {"rank": 4, "sites": "decoder"},
        "dora": {"rank": 2, "dora": True},
    }
    paths = {}
    for seed, (name, options) in enumerate(kinds.items()):
        opened = mt.open_model(str(saved_v1), device="cpu")
        inject_lora(opened.model, seed=seed, **options)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, value in adapter_parameters(opened.model.module):
                if ".lora_B" in key:
                    value.copy_(0.05 * torch.randn(value.shape, generator=rng))
        paths[name] = folder / name
        paths[name].mkdir()
        save_adapter(paths[name], opened.model, adapter_state(opened.model), base=opened.base)
    return paths


def test_smoke(saved_v1, adapters, speech_folder, tmp_path, ask):
    out = tmp_path / "both"
    words = ["combine", adapters["voice"], adapters["words"], "--dev", speech_folder / "dev.jsonl",
             "--canary", speech_folder / "canary.jsonl", "--out", out, "--model", saved_v1]
    code = run([*map(str, words)])
    print(json.dumps(json.loads((out / "run.json").read_text()), indent=1))
    print(code)
