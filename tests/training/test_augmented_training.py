"""Training with augmentation, speaker balance, easy clips first, domain KL and averaging.

Small random models; what a step trains on depends on seed and step alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.training_runs import Training, Watcher, resolve

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.config.settings import AugmentSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.training.augmentation import AugmentedCopies, open_noise_banks
from moonshine_tune.training.late_average import LateAdapters
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    for seed in range(3):
        noise = 0.1 * np.random.default_rng(seed).standard_normal(9_000)
        soundfile.write(folder / f"n{seed}.wav", noise.astype(np.float32), 16_000)
    return folder


@pytest.fixture
def settings(saved_v1: Path, speech_folder: Path) -> Callable[..., ResolvedSettings]:
    def make(**changes: Any) -> ResolvedSettings:
        content: dict[str, Any] = {
            "model": str(saved_v1),
            "data": {name: str(speech_folder / f"{name}.jsonl") for name in ("train", "dev")},
            "adapter": {"rank": 2},
            "train": {"steps": 6, "batch_size": 3, "learning_rate": 5e-3, "seed": 3},
            "select": {"every_steps": 3},
            "device": {"name": "cpu"},
        }
        return resolve(content, **changes)

    return make


Make = Callable[..., ResolvedSettings]


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _run(settings: ResolvedSettings, out: Path, **options: Any) -> list[float]:
    train(settings, out, SilentProgress(), **options)
    return _losses(out)


@pytest.mark.parametrize("variants", [0, 2])
def test_a_repeated_run_trains_on_the_same_versions(
    settings: Make, noise_folder: Path, tmp_path: Path, variants: int
) -> None:
    options = {"augment__share": 0.8, "augment__variants": variants,
            "augment__noise": str(noise_folder)}  # fmt: skip
    first = _run(settings(**options), tmp_path / "a")
    assert _run(settings(**options), tmp_path / "b") == first
    assert _run(settings(), tmp_path / "clean") != first
    assert _run(settings(**options, train__seed=4), tmp_path / "seed") != first


def test_stored_versions_and_versions_encoded_at_each_step_are_the_same_sound(
    settings: Make, noise_folder: Path, tmp_path: Path
) -> None:
    options = {"augment__share": 1.0, "augment__noise": str(noise_folder)}
    stored = _run(settings(**options), tmp_path / "stored")
    fresh = _run(settings(**options, device__state_cache_mb=0), tmp_path / "fresh")
    disk = _run(settings(**options, device__state_storage="disk",
                         device__state_format="float32"), tmp_path / "disk")  # fmt: skip
    assert fresh == pytest.approx(stored, rel=1e-4)
    assert disk == pytest.approx(stored, rel=1e-4)


@pytest.mark.parametrize("variants", [0, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(
    settings: Make, noise_folder: Path, tmp_path: Path, variants: int
) -> None:
    options = {"augment__share": 0.7, "augment__variants": variants,
            "augment__noise": str(noise_folder), "select__average_last": 2}  # fmt: skip
    expected = _run(settings(**options), tmp_path / "whole")

    class _StopAfterThree(SilentProgress):
        def say(self, text: str) -> None:
            if text.startswith("step 3:"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings(**options), tmp_path / "cut", _StopAfterThree())
    resumed = _run(settings(**options), tmp_path / "cut", resume=True)
    assert resumed == expected
    assert Training.adapter(tmp_path / "cut") == Training.adapter(tmp_path / "whole")


def test_dev_is_scored_as_recorded_and_augmented(
    settings: Make, noise_folder: Path, tmp_path: Path
) -> None:
    """The dev WER stays that of the clips as recorded."""
    options = {"augment__share": 0.5, "augment__noise": str(noise_folder),
            "augment__snr_db": (-30.0, -30.0), "augment__noise_chance": 1.0,
            "select__average_last": 2}  # fmt: skip
    result = train(settings(**options), tmp_path / "both", SilentProgress())
    alone = train(settings(**options, augment__dev=False), tmp_path / "alone", SilentProgress())
    assert _losses(tmp_path / "both") == _losses(tmp_path / "alone")
    assert result.baseline.dev_wer == alone.baseline.dev_wer
    assert alone.best.dev_augmented_wer is alone.baseline.dev_augmented_wer is None
    assert result.baseline.dev_augmented_wer is not None
    lines = [json.loads(x) for x in (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "dev_wer" in line]
    assert len(scores) == 3 and all("dev_augmented_wer" in line for line in scores)
    assert any("average_dev_augmented_wer" in line for line in lines)
    scored = (tmp_path / "both" / "eval" / "dev.jsonl").read_text().splitlines()
    assert len(scored) == len((tmp_path / "alone" / "eval" / "dev.jsonl").read_text().splitlines())


def test_an_augmented_clip_of_dev_differs_and_is_the_same_each_time(
    speech_folder: Path, noise_folder: Path, tiny_v1: Any
) -> None:
    dataset = build_dataset(
        read_manifest(speech_folder / "dev.jsonl").utterances, tiny_v1, name="dev",
        max_clip_s=30.0, needs_text=True,
    )  # fmt: skip
    augment = AugmentSettings(share=0.5, noise=noise_folder, noise_chance=1.0)
    first, again = (
        AugmentedCopies(dataset, augment, open_noise_banks(augment), seed=3) for _ in range(2)
    )
    for index in range(len(dataset)):
        sound = first.load(index)
        assert np.array_equal(sound, again.load(index))
        assert first.content_key(index) == again.content_key(index) != dataset.content_key(index)
        assert first.seconds[index] == pytest.approx(len(sound) / 16_000, abs=1e-3)
        recorded = dataset.load(index)
        assert len(sound) != len(recorded) or not np.allclose(sound, recorded, atol=1e-4)


def test_an_adapter_in_the_encoder_trains_on_augmented_clips_too(
    settings: Make, noise_folder: Path, tmp_path: Path
) -> None:
    options = {"augment__share": 1.0, "augment__noise": str(noise_folder), "adapter__sites": "all"}
    losses = _run(settings(**options), tmp_path / "all")
    assert len(losses) == 6 and all(np.isfinite(losses))


def test_the_folder_of_noise_is_checked_before_anything_else(
    settings: Make, noise_folder: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RequestError, match="holds no audio"):
        train(settings(augment__share=0.5, augment__noise=str(empty)), tmp_path / "a",
              SilentProgress())  # fmt: skip
    with pytest.raises(RequestError, match="no effect can be drawn"):
        nothing = {f"augment__{name}_chance": 0.0
                   for name in ("gain", "speed", "telephone", "clipping", "masking")}  # fmt: skip
        train(settings(augment__share=0.5, **nothing), tmp_path / "b", SilentProgress())
    with pytest.raises(ProblemsError, match="wrong") as caught:
        settings(augment__snr_db=[20.0, 5.0])
    assert any("is above" in problem for problem in caught.value.problems)


def test_a_resumed_run_is_refused_where_the_noises_have_changed(
    settings: Make, tmp_path: Path
) -> None:
    noise = tmp_path / "noise"
    noise.mkdir()
    soundfile.write(noise / "a.wav", np.full(4_000, 0.1, dtype=np.float32), 16_000)
    options = settings(augment__share=0.5, augment__noise=str(noise))
    train(options, tmp_path / "run", SilentProgress())
    soundfile.write(noise / "b.wav", np.full(4_000, 0.2, dtype=np.float32), 16_000)
    with pytest.raises(RequestError, match="changed since this run started: noise"):
        train(options, tmp_path / "run", SilentProgress(), resume=True)


def test_kl_on_the_domain_keeps_the_adapter_nearer_to_the_base(
    settings: Make, tmp_path: Path
) -> None:
    free = _run(settings(), tmp_path / "free")
    held = _run(settings(retain__domain_weight=20.0), tmp_path / "held")
    assert held[0] == free[0], "the logged loss is the cross-entropy alone"
    assert held[-1] > free[-1], "a large weight learns less"


def test_the_mean_of_the_last_adapters_is_scored(settings: Make, tmp_path: Path) -> None:
    watcher = Watcher()
    out = tmp_path / "run"
    result = train(settings(select__average_last=2, select__patience=9), out, watcher)
    assert any(line.startswith("mean of the last 2: ") for line in watcher.messages)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    tried = [line for line in lines if "average_of" in line]
    assert [line["average_of"] for line in tried] == [2]
    kept = sorted(path.name for path in (out / "late").iterdir())
    assert kept == ["step-0000003.safetensors", "step-0000006.safetensors"]
    assert result.best.averaged in (0, 2)


def test_the_mean_is_the_mean_and_ignores_later_steps(tmp_path: Path) -> None:
    late = LateAdapters(tmp_path, 2)
    for step in (1, 2, 3, 4):
        late.keep(step, {"a": torch.full((2, 2), float(step))})
    mean = late.mean(4)
    assert mean is not None and mean[1] == 2
    assert torch.equal(mean[0]["a"], torch.full((2, 2), 3.5))
    assert late.mean(3) is None, "a single one is no mean"
    assert LateAdapters(tmp_path / "off", 0).mean(4) is None
    assert mean[0]["a"].dtype == torch.float32


def test_easy_clips_come_first(settings: Make, tmp_path: Path) -> None:
    plain = _run(settings(train__steps=4), tmp_path / "plain")
    easy = _run(settings(train__steps=4, train__easy_first=0.5), tmp_path / "easy")
    assert easy != plain
    with pytest.raises(RequestError, match="both choose the order"):
        train(settings(train__easy_first=0.5, train__stages=[{"steps": 2, "max_clip_s": 9.0}]),
              tmp_path / "both", SilentProgress())  # fmt: skip


def test_balance_needs_speakers(settings: Make, speech_folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (speech_folder / "train.jsonl").read_text().splitlines()]
    nameless = tmp_path / "nameless.jsonl"
    for line in lines:
        line.pop("speaker")
        line["audio"] = str(speech_folder / line["audio"])
    nameless.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RequestError, match="needs speakers"):
        train(settings(train__speaker_balance=1.0, data__train=str(nameless)), tmp_path / "a",
              SilentProgress())  # fmt: skip
    losses = _run(settings(train__speaker_balance=1.0), tmp_path / "b")
    assert losses != _run(settings(), tmp_path / "plain")
