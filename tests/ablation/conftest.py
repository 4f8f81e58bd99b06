"""Manifests and requests of a search, and a heartbeat that gets old soon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.space import read_space

SPACE = """
settings: {train: {steps: 100}, select: {every_steps: 25}}
space:
  adapter.rank: [2, 4, 8, 16]
  train.learning_rate: {low: 1e-4, high: 2e-3, log: true}
"""


@pytest.fixture(autouse=True)
def _short_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonshine_tune.ablation.study._ONE_MACHINE_S", (1, 2))


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Manifests with recordings that exist; nothing opens them."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "clip.wav").write_bytes(b"")
    paths = {}
    for name in ("train", "dev", "canary", "test"):
        lines = [
            {"id": f"{name}-{n}", "audio": "clip.wav", "text": "one", "split": name}
            for n in range(4)
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        paths[name] = str(path)
    return paths


@pytest.fixture
def request_of(tmp_path: Path, data: dict[str, str]) -> Callable[..., AblateRequest]:
    def make(space: str = SPACE, **options: Any) -> AblateRequest:
        path = tmp_path / "space.yaml"
        path.write_text(space, encoding="utf-8")
        manifests = {name: data[name] for name in ("train", "dev", "canary")}
        layers = options.pop("layers", (("flag", {"data": manifests}),))
        return AblateRequest(
            **{"out": tmp_path / "ablation", "space": read_space(str(path)), "layers": layers,
               "workers": 0, **options}
        )  # fmt: skip

    return make
