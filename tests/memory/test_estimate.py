"""The memory estimate: counted from the real forward pass, by phase and part; what would fit."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from moonshine_tune.config.resolve import preset_names, read_preset, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import batch_width, counted_as
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.memory import estimate as estimate_module
from moonshine_tune.memory import model as memory_module
from moonshine_tune.memory.estimate import (
    GIB,
    MAC_16_GB_GIB,
    Workload,
    _largest,
    choose_budget,
    estimate_memory,
    estimate_run,
)
from moonshine_tune.memory.fit import fit_settings
from moonshine_tune.memory.model import MemoryEstimate, MemoryModel, Phase
from moonshine_tune.memory.run_shape import RunShape
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import MOST_MAPPED_BYTES
from moonshine_tune.models.lora import inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch
from moonshine_tune.registry.catalog import MODELS, find_model
from moonshine_tune.registry.published_configs import (
    SHAPES,
    model_from_config,
    published_config,
    shallower,
)

_SMALL = RunShape(batch_size=2, clip_s=2.0, tokens=12, rank=2, score_batch_s=8.0)


def _config(family: str) -> Any:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    if family == "v1":
        both = {f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in heads}
        return AutoConfig.for_model(
            "moonshine", vocab_size=2048, hidden_size=64, intermediate_size=128,
            encoder_num_hidden_layers=3, decoder_num_hidden_layers=3, **both,
        )  # fmt: skip
    encoder = {"hidden_size": 80, "intermediate_size": 160, "num_hidden_layers": 3,
               "sliding_windows": ((16, 4), (16, 0), (16, 4)), **heads}  # fmt: skip
    return AutoConfig.for_model(
        "moonshine_streaming", vocab_size=2048, hidden_size=64, intermediate_size=128,
        num_hidden_layers=3, encoder_config=encoder, **heads,
    )  # fmt: skip


@functools.cache
def _estimate(family: str = "v1", **changes: Any) -> MemoryEstimate:
    shape = dataclasses.replace(_SMALL, **changes)
    return MemoryModel(_config(family), shape).estimate()


def _phase(estimate: MemoryEstimate, name: str) -> Phase:
    return next(phase for phase in estimate.phases if phase.name == name)


def _allocated(phase: Phase) -> int:
    """Bytes of the work itself, without weights and allowances."""
    names = ("audio", "encoder", "decoder", "logits", "backward")
    return sum(phase.parts[name] for name in names)


# --- shapes


@pytest.mark.parametrize(
    ("name", "parameters", "head"),
    [
        ("tiny", 27_092_736, False),
        ("base", 61_513_920, False),
        ("streaming-tiny", 44_054_721, True),
        ("streaming-small", 140_135_225, True),
        ("streaming-medium", 265_898_113, True),
    ],
)
def test_published_shapes_have_the_published_counts(name: str, parameters: int, head: bool) -> None:
    with torch.device("meta"):
        model = model_from_config(published_config(name), device="meta")
    count = sum(value.numel() for value in model.module.parameters())
    assert count == parameters
    published = find_model(name).parameters
    without_head = count - model.module.proj_out.weight.numel()
    # Cards of streaming models count with or without the untied head, in round millions.
    assert any(abs(n - published) < 0.6e6 for n in ((count, without_head) if head else (count,)))
    assert model.module.proj_out.weight is not model.decoder.embed_tokens.weight or not head


def test_medium_is_made_of_the_published_parts() -> None:
    with torch.device("meta"):
        model = model_from_config(published_config("medium"), device="meta")
    parts = {
        "encoder": sum(value.numel() for value in model.encoder.parameters()),
        "decoder": sum(value.numel() for value in model.decoder.parameters()),
        "head": model.module.proj_out.weight.numel(),
    }
    assert {k: round(v / 1e6, 1) for k, v in parts.items()} == {
        "encoder": 105.5, "decoder": 139.4, "head": 21.0,
    }  # fmt: skip
    windows = [tuple(window) for window in model.encoder.config.sliding_windows]
    assert windows == [(16, 4)] * 2 + [(16, 0)] * 10 + [(16, 4)] * 2


def test_every_model_of_the_catalog_has_a_shape() -> None:
    for record in MODELS:
        assert SHAPES[record.size].family == record.family
    assert find_model("tiny-ko").size == "tiny"
    with pytest.raises(RequestError, match="gigantic"):
        published_config("gigantic")


# --- counting


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_the_count_agrees_with_the_tensors_that_autograd_really_saves(
    family: str, attention: str
) -> None:
    """Counted independently: a real model with real numbers, through saved-tensor hooks."""
    model = model_from_config(_config(family), attention=attention)
    inject_lora(model, rank=2, sites="all")
    model.module.train()
    device, rows = ("mps", 128) if attention == "eager" else ("cpu", 26)
    if device == "mps":
        model.make_activation_inputs_contiguous()
    with counted_as(device):
        saved = _really_saved(model)
    step = _phase(_estimate(family, device=device, sites="all", score_batch_s=0.0), "step")
    # In addition to the saved tensors: temporary values at the peak, and the loss's chunk.
    assert saved < _allocated(step) < 1.35 * saved + 3 * rows * 2048 * 4


def _really_saved(model: SpeechModel) -> int:
    own = {value.untyped_storage().data_ptr() for value in model.module.parameters()}
    sizes: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    samples = [32_000, 28_800]
    targets = target_batch([[300] * 12] * 2, "cpu", pad_to_bucket=True)
    audio = torch.randn(2, batch_width(samples[0], torch.device("cpu")))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.encode(audio, samples)
        hidden = model.decoder_hidden(states, targets.input_ids)
        loss = head_cross_entropy_sum(hidden, FrozenHead(model.head_weight), targets.targets)
    assert torch.isfinite(loss)
    return sum(size for _, size in sizes.values())


def test_weights_adapter_gradients_and_optimizer_are_counted() -> None:
    estimate = _estimate(sites="all")
    step = _phase(estimate, "step")
    with torch.device("meta"):
        model = model_from_config(_config("v1"), device="meta")
    weights = sum(value.numel() for value in model.module.parameters())
    assert estimate.model_parameters == weights
    # The buffers of the rotary embedding are the only addition.
    assert 4 * weights <= step.parts["weights"] < 4 * weights + 4096
    adapter = inject_lora(model, rank=2, sites="all").parameters
    assert estimate.adapter_parameters == adapter
    assert step.parts["adapter"] == step.parts["gradients"] == 4 * adapter
    assert step.parts["optimizer"] == 8 * adapter
    score = _phase(estimate, "score")
    assert score.parts["gradients"] == 0
    assert step.total == sum(step.parts.values())
    assert estimate.total == max(phase.total for phase in estimate.phases)
    assert estimate.growth == estimate.total - estimate.peak.parts["runtime"]


def test_memory_changes_with_everything_that_it_depends_on() -> None:
    # Scoring is a phase of its own.
    fixed = {"sites": "all", "score_batch_s": 0.0}
    step = _allocated(_phase(_estimate(**fixed), "step"))

    def changed(**changes: Any) -> int:
        return _allocated(_phase(_estimate(**(fixed | changes)), "step"))

    assert 1.8 < changed(batch_size=4) / step < 2.2
    assert changed(clip_s=4.0) > 1.5 * step
    assert changed(tokens=24) > step
    assert changed(gradient_checkpointing=True) < 0.7 * step
    assert changed(sites="decoder") < step
    # Adapters keep their input in 16 bits; attention computes in 32.
    assert 0.7 * step < changed(frozen_dtype=torch.bfloat16) < 0.9 * step
    assert changed(dropout=0.1) > step
    assert changed(device="mps") > step  # eager attention keeps its weights
    bigger = _estimate(**fixed, rank=8)
    assert bigger.adapter_parameters == 4 * _estimate(**fixed).adapter_parameters


def test_16_bit_weights_are_half_and_loading_them_is_bounded() -> None:
    wide, narrow = _estimate(), _estimate(frozen_dtype=torch.bfloat16)
    halves = _phase(narrow, "step").parts["weights"] / _phase(wide, "step").parts["weights"]
    assert 0.49 < halves < 0.52
    assert _phase(wide, "load").parts["loading"] == 0  # the mapped file is the weights
    # All of the file if it is small.
    assert _phase(narrow, "load").parts["loading"] == 4 * narrow.model_parameters
    assert 4 * narrow.model_parameters < MOST_MAPPED_BYTES


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_stored_states_take_memory_once_and_save_the_encoder(family: str) -> None:
    plain = _estimate(family, batch_size=1)
    stored = _estimate(family, batch_size=1, stored_s=3600.0)
    rate, width = (16_000 / 384, 64) if family == "v1" else (50, 80)
    assert _phase(stored, "step").parts["encoder states"] == round(3600 * rate * width * 4)
    assert _phase(plain, "step").parts["encoder states"] == 0
    names = {phase.name for phase in stored.phases}
    assert "prepare" in names and "prepare" not in {phase.name for phase in plain.phases}
    assert _phase(stored, "score").parts["audio"] == 0
    bounded = _estimate(family, stored_s=3600.0, stored_limit_mb=5)
    assert _phase(bounded, "step").parts["encoder states"] == 5_000_000
    with torch.device("meta"):
        encoder = model_from_config(_config(family), device="meta").encoder
    size = sum(value.numel() for value in encoder.parameters())
    kept = _phase(stored, "step").parts["weights"]
    for shape, saved in (({}, 4 * size), ({"frozen_dtype": torch.bfloat16}, 2 * size),
                          ({"device": "mps"}, 4 * size)):  # fmt: skip
        released = _estimate(family, stored_s=3600.0, releases_encoder=True, **shape)
        loaded = _phase(released, "load").parts["weights"]
        assert loaded - _phase(released, "step").parts["weights"] == saved
    assert _phase(stored, "load").parts["weights"] == kept
    # On the CPU in 32 bits the mapped file is read at its first use.
    assert _phase(stored, "prepare").parts["weights"] == 4 * size
    taught = _estimate(family, stored_s=3600.0, replay_clips=2)
    assert _phase(taught, "prepare").parts["weights"] == kept


def test_an_adapter_in_the_encoder_stores_the_input_of_its_layers() -> None:
    """As much as a frozen encoder's states; the encoder stays in memory, and its layers run."""
    shape = {"stored_s": 3600.0, "releases_encoder": True}
    trained, frozen = _estimate(sites="all", **shape), _estimate(sites="decoder", **shape)
    assert {phase.name for phase in trained.phases} == {"load", "prepare", "step", "score"}
    step, of_frozen = _phase(trained, "step"), _phase(frozen, "step")
    assert step.parts["encoder states"] == of_frozen.parts["encoder states"] > 0
    assert step.parts["weights"] == _phase(trained, "load").parts["weights"]
    assert step.parts["encoder"] > of_frozen.parts["encoder"]
    assert step.parts["audio"] == 0 < _phase(trained, "prepare").parts["audio"]


def test_replay_is_a_separate_phase() -> None:
    estimate = _estimate(replay_clips=2)
    assert _phase(estimate, "replay").parts["logits"] > _phase(estimate, "step").parts["logits"]


def test_nothing_is_allocated_for_a_model_that_would_not_fit_here() -> None:
    """A batch of 4,000 clips of 30 s is counted without allocating it."""
    estimate = _estimate("streaming", batch_size=4000, clip_s=30.0, sites="all", score_batch_s=0.0)
    assert estimate.total > 100 * GIB


# --- the job


def _settings(preset: str | None = None, **values: Any) -> RunSettings:
    layers = [("preset", read_preset(preset))] if preset else []
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition("__")
        if name:
            nested.setdefault(section, {})[name] = value
        else:
            nested[key] = value
    return resolve_settings([*layers, ("test", nested)]).settings


def test_medium_pilot_fits_a_16_gb_mac_with_clips_of_30_s() -> None:
    budget = choose_budget("mps", None)
    assert budget.bytes == 9.5 * GIB
    assert "16 GB Mac" in budget.reason
    estimate = estimate_memory(_settings("medium-pilot"), Workload(clip_s=30.0), "mps")
    assert (estimate.shape.clip_s, estimate.shape.batch_size) == (30.0, 1)
    assert estimate.total <= budget.bytes


@pytest.mark.parametrize(
    ("memory_gib", "metal_gib", "budget_gib"),
    [(8, 5.33, 3.5), (16, 10.667, 9.5), (24, 16.0, 14.25), (64, 48.0, 42.75), (128, 96.0, 85.5)],
)
def test_the_budget_of_a_mac_follows_its_memory(
    memory_gib: int, metal_gib: float, budget_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate_module, "mps_memory_bytes", lambda: round(metal_gib * GIB))
    monkeypatch.setattr(estimate_module, "total_memory_mb", lambda: memory_gib * GIB // 1_000_000)
    budget = choose_budget("mps", None)
    assert budget.bytes / GIB == pytest.approx(budget_gib, abs=0.01)
    assert "this Mac" in budget.reason
    assert choose_budget("mps", 7.0).bytes == 7 * GIB


def test_medium_from_stored_states_fits_three_gib() -> None:
    """Ten hours of speech: its states are on disk, and the encoder is freed."""
    settings = _settings("medium", train__batch_size=1, device__state_storage="disk")
    load = Workload(clip_s=15.0, audio_s=36_000.0, replays=True)
    for kind in ("cpu", "mps"):
        estimate = estimate_memory(settings, load, kind).tightened()
        assert estimate.total <= 3.0 * GIB, (kind, estimate.peak)
        assert "encoder states" not in {k for k, v in estimate.peak.parts.items() if v}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fits_a_16_gb_mac_with_clips_of_30_s(name: str) -> None:
    estimate = estimate_memory(_settings(name), Workload(clip_s=30.0, replays=True), "mps")
    assert estimate.total <= MAC_16_GB_GIB * GIB, estimate.peak


def test_a_small_scored_set_bounds_the_batch_of_the_scorer() -> None:
    """Three short clips are not counted as two minutes of audio."""
    settings = _settings(adapter__sites="all")
    full = estimate_memory(settings, Workload(clip_s=2.0, tokens=13), "cpu")
    few = estimate_memory(settings, Workload(clip_s=2.0, tokens=13, score_s=5.0), "cpu")
    assert full.shape.score_batch_s > few.shape.score_batch_s == 5.0
    assert _allocated(_phase(few, "score")) < _allocated(_phase(full, "score")) / 5
    assert _allocated(_phase(few, "step")) == _allocated(_phase(full, "step"))


@pytest.mark.parametrize(
    "changes",
    [
        {"replay_clips": 2, "device": "mps"},
        {"sites": "all", "dropout": 0.1, "mixed": True},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_a_deep_model_is_counted_in_two_shallow_ones(
    family: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal layers take equal memory: extrapolation agrees with a direct count.

    Only phases with stored states are extrapolated.
    """
    deep = shallower(_config(family), 3)
    if family == "v1":
        deep.encoder_num_hidden_layers = deep.decoder_num_hidden_layers = 7
    else:
        deep.num_hidden_layers = deep.encoder_config.num_hidden_layers = 7
        ahead = ((16, 4),) * 2
        deep.encoder_config.sliding_windows = (*ahead, *((16, 0),) * 3, *ahead)
        for side in (deep, deep.encoder_config):
            if getattr(side, "layer_types", None):
                side.layer_types = side.layer_types[:1] * 7
    shape = dataclasses.replace(_SMALL, stored_s=600.0, score_batch_s=0.0, **changes)
    quick = MemoryModel(deep, shape).estimate()
    monkeypatch.setattr(memory_module, "_DIRECT_DEPTH", 99)
    direct = MemoryModel(deep, shape).estimate()
    assert [p.name for p in quick.phases] == [p.name for p in direct.phases]
    for a, b in zip(quick.phases, direct.phases, strict=True):
        assert a.allocated == pytest.approx(b.allocated, rel=0.02), a.name
    assert quick.adapter_parameters == direct.adapter_parameters


def test_the_loose_heap_adds_gaps_only() -> None:
    loose = _estimate(loose_heap=True)
    tight = loose.tightened()
    assert tight == _estimate()
    assert loose.total > tight.total
    for a, b in zip(loose.phases, tight.phases, strict=True):
        assert a.allocated == b.allocated
        assert a.parts | {"allocator": 0} == b.parts | {"allocator": 0}
    # Only glibc has it.
    gpu = dataclasses.replace(_SMALL, device="mps", loose_heap=True)
    tight_gpu = dataclasses.replace(gpu, loose_heap=False)
    assert memory_module._gaps(gpu) == memory_module._gaps(tight_gpu)


def test_dora_takes_more_than_lora() -> None:
    plain, dora = (_estimate(sites="all", dora=dora, score_batch_s=0.0) for dora in (False, True))
    assert dora.adapter_parameters > plain.adapter_parameters
    assert _allocated(_phase(dora, "step")) > _allocated(_phase(plain, "step"))


# The process without a model: the small ones of these tests add a few MB.
_PROCESS = 600 << 20


def test_the_largest_fitting_batch_and_clip_are_found(saved_v1: Path) -> None:
    load = Workload(clip_s=4.0, scores=False, audio_s=60.0)
    budget = (_PROCESS + (15 << 20)) / GIB
    result = estimate_run(
        _settings(model=str(saved_v1)), load, SilentProgress(), device="cpu", budget_gib=budget
    )
    size, seconds = result.largest_batch, result.longest_clip_s
    assert 1 <= size < 64
    assert 1 <= seconds < 60

    def total(batch: int, clip_s: float) -> int:
        settings = _settings(model=str(saved_v1), train__batch_size=batch, data__max_clip_s=60)
        changed = dataclasses.replace(load, clip_s=clip_s)
        return estimate_memory(settings, changed, "cpu").tightened().total

    assert total(size, 4) <= result.budget.bytes < total(size + 1, 4)
    assert total(8, seconds) <= result.budget.bytes < total(8, seconds + 1)
    tiny = estimate_run(
        _settings(model=str(saved_v1)), load, SilentProgress(), device="cpu", budget_gib=0.001
    )
    assert not tiny.fits and tiny.longest_clip_s == 0 and tiny.largest_batch == 0


@pytest.mark.parametrize("known", [None, {10: 101}, {1: 2, 7: 50}])
@pytest.mark.parametrize("budget", [0, 1, 5, 99, 100, 101, 2500, 2501, 10**9])
def test_the_search_finds_the_same_as_trying_every_size(
    budget: int, known: dict[int, int] | None
) -> None:
    evaluations = []

    def total(size: int) -> int:
        evaluations.append(size)
        return 1 + size * size

    expected = max((size for size in range(1, 51) if total(size) <= budget), default=0)
    evaluations.clear()
    assert _largest(50, budget, total, known) == expected
    assert len(evaluations) <= 14


def test_linear_totals_need_three_evaluations() -> None:
    evaluations = []

    def total(size: int) -> int:
        evaluations.append(size)
        return 1000 + 37 * size

    assert _largest(64, 1000 + 37 * 23 + 5, total, {8: 1000 + 37 * 8}) == 23
    assert len(evaluations) <= 3


def test_settings_are_changed_until_they_fit_cheapest_first(saved_v1: Path) -> None:
    settings = _settings(model=str(saved_v1), train__batch_size=8, adapter__sites="all")
    many = Workload(clip_s=20.0, scores=False, audio_s=36_000.0)
    full = estimate_memory(settings, many, "cpu").tightened()
    mapped = fit_settings(settings, many, device="cpu", budget_gib=(full.total - 1) / GIB)
    assert mapped.settings.device.state_storage == "disk"
    assert [change.split(" ")[0] for change in mapped.changes] == ["device.state_storage=disk"]
    load = Workload(clip_s=20.0, scores=False, audio_s=60.0)
    plain = estimate_memory(settings, load, "cpu").tightened()
    roomy = fit_settings(settings, load, device="cpu", budget_gib=50)
    assert roomy.settings == settings and roomy.changes == ()
    budget = (_PROCESS + 0.7 * plain.growth) / GIB
    tight = fit_settings(settings, load, device="cpu", budget_gib=budget)
    assert tight.changes and tight.changes[0].startswith("train.batch_size=4, ")
    assert "GiB" in tight.changes[0]
    train = tight.settings.train
    assert train.batch_size < 8
    assert train.batch_size * train.accumulation == 8
    assert not train.gradient_checkpointing
    assert tight.estimate.total <= tight.budget.bytes
    single = _settings(model=str(saved_v1), train__batch_size=1, adapter__sites="all")
    least = estimate_memory(single, load, "cpu").tightened()
    smallest = fit_settings(
        settings, load, device="cpu", budget_gib=(_PROCESS + 0.8 * least.growth) / GIB
    )
    assert smallest.settings.train.gradient_checkpointing
    assert [change.split("=")[0] for change in smallest.changes][:4] == [
        "train.batch_size", "train.batch_size", "train.batch_size", "train.gradient_checkpointing"
    ]  # fmt: skip
    with pytest.raises(MachineError, match="with every saving"):
        fit_settings(single, dataclasses.replace(load, clip_s=2.0), device="cpu", budget_gib=0.3)


# --- wrong requests


@pytest.mark.parametrize(
    ("settings", "load", "options", "words"),
    [
        ({"model": "gigantic"}, {}, {}, "shape of 'gigantic'"),
        ({}, {}, {"device": "tpu"}, "no device is called 'tpu'"),
        ({}, {}, {"budget_gib": 0.0}, "a budget of 0"),
        ({}, {}, {"budget_gib": math.nan}, "a budget of nan"),
        ({}, {"clip_s": -1.0}, {}, "a clip of -1"),
        ({}, {"clip_s": math.inf, "tokens": 0}, {}, "0 tokens"),
    ],
)
def test_wrong_requests_are_refused(
    settings: dict[str, Any], load: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    options = {"device": "cpu", "budget_gib": 4.0} | options
    with pytest.raises(RequestError, match=words):
        estimate_run(_settings(**settings), Workload(**load), SilentProgress(), **options)


def test_a_cuda_budget_needs_the_device_or_a_number() -> None:
    assert choose_budget("cuda", 24.0).bytes == 24 * GIB
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="no CUDA device"):
            choose_budget("cuda", None)


def test_full_fine_tuning_counts_what_trains_and_its_copies() -> None:
    """Weights in 32 bits, gradients, two moments, and the best so far, beside the frozen base."""
    lora = _estimate(sites="decoder", frozen_dtype=torch.bfloat16)
    full = _estimate(sites="decoder", frozen_dtype=torch.bfloat16, full=True)
    count = full.adapter_parameters
    assert 0.1 < count / full.model_parameters < 1.0
    assert full.model_parameters == lora.model_parameters
    step, of_lora = _phase(full, "step").parts, _phase(lora, "step").parts
    # The base in 16 bits, and its buffers.
    assert step["weights"] == of_lora["weights"]
    assert 0 <= step["weights"] - 2 * full.model_parameters < 1000
    assert step["adapter"] == step["gradients"] == step["copies"] == 4 * count
    assert step["optimizer"] == 8 * count
    assert _phase(full, "score").parts["copies"] >= 12 * count
    assert not of_lora["copies"]
