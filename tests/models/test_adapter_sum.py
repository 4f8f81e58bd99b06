"""The weighted sum of adapters changes the weights by the weighted sum of their changes."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moonshine_tune.core.errors import RequestError
from moonshine_tune.models.adapter_sum import WeightedAdapter, save_sum
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import (
    adapter_state,
    inject_lora,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from moonshine_tune.models.merge import LazyMerged
from moonshine_tune.runs.parent import read_parent

_BASE = {"name": "base"}
_Fresh = Callable[[], SpeechModel]


@pytest.fixture
def fresh(tiny_v1: SpeechModel) -> _Fresh:
    return lambda: copy.deepcopy(tiny_v1)


def _adapter(folder: Path, fresh: _Fresh, seed: int, **options: Any) -> dict[str, torch.Tensor]:
    """Write a random adapter; its change of each weight."""
    scale = options.pop("scale", 1.0)
    model = fresh()
    inject_lora(model, seed=seed, **options)
    torch.manual_seed(seed)
    state = {name: torch.randn_like(value) for name, value in adapter_state(model).items()}
    load_adapter_state(model, state)
    folder.mkdir()
    save_adapter(folder, model, state, scale=scale, base=_BASE)
    return _changes(folder, fresh)


def _sum(parts: list[WeightedAdapter], fresh: _Fresh, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    save_sum(folder, parts)
    return _changes(folder, fresh)


def _changes(folder: Path, fresh: _Fresh) -> dict[str, torch.Tensor]:
    model = fresh()
    load_adapter(model, folder)
    merged = LazyMerged(model)
    return {name: merged[name] - merged.base(name) for name in merged}


@pytest.mark.parametrize(
    "second",
    [
        {"rank": 4, "alpha": 8.0},
        {"rank": 2, "alpha": 8.0, "sites": "all"},
        {"rank": 3, "alpha": 6.0, "sites": "encoder", "rslora": True},
        {"rank": 4, "alpha": 8.0, "scale": 0.6},
    ],
)
def test_changes_add_up(second: dict[str, Any], fresh: _Fresh, tmp_path: Path) -> None:
    first_changes = _adapter(tmp_path / "a", fresh, 1, rank=4, alpha=8.0)
    second_changes = _adapter(tmp_path / "b", fresh, 2, **second)
    parts = [WeightedAdapter(tmp_path / "a", 0.75), WeightedAdapter(tmp_path / "b", 0.25)]
    total = _sum(parts, fresh, tmp_path / "sum")
    assert total.keys() == first_changes.keys() | second_changes.keys()
    for name, change in total.items():
        nothing = torch.zeros_like(change)
        wanted = 0.75 * first_changes.get(name, nothing) + 0.25 * second_changes.get(name, nothing)
        torch.testing.assert_close(change, wanted, rtol=1e-4, atol=1e-4)


def test_a_sum_is_an_adapter_like_others(fresh: _Fresh, tmp_path: Path) -> None:
    changes = _adapter(tmp_path / "a", fresh, 1, rank=4, alpha=8.0, sites="all")
    _sum([WeightedAdapter(tmp_path / "a", 0.5)] * 2, fresh, tmp_path / "twice")
    # A training can start at it.
    shape = read_parent(tmp_path / "twice").shape
    assert (shape["rank"], shape["alpha"], shape["sites"]) == (8, 8.0, "all")
    again = _sum([WeightedAdapter(tmp_path / "twice", 1.0)], fresh, tmp_path / "again")
    for name, change in again.items():
        torch.testing.assert_close(change, changes[name], rtol=1e-4, atol=1e-4)


def test_what_is_no_product_of_two_matrices_is_refused(fresh: _Fresh, tmp_path: Path) -> None:
    _adapter(tmp_path / "a", fresh, 1, rank=4, alpha=8.0, dora=True)
    with pytest.raises(RequestError, match="cannot be summed with others: DoRA"):
        save_sum(tmp_path, [WeightedAdapter(tmp_path / "a", 1.0)])


def test_adapters_of_another_base_are_refused(fresh: _Fresh, tmp_path: Path) -> None:
    for name, sha in (("a", "1"), ("b", "2")):
        _adapter(tmp_path / name, fresh, 1, rank=2, alpha=4.0)
        base = {"name": f"base {name}", "sha256": sha, "family": "v1"}
        (tmp_path / name / "base_model.json").write_text(json.dumps(base), encoding="utf-8")
    parts = [WeightedAdapter(tmp_path / name, 0.5) for name in ("a", "b")]
    with pytest.raises(RequestError, match="another base"):
        save_sum(tmp_path, parts)
