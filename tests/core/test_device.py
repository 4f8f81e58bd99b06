"""Choice of device and number format, each with its reason; memory readings."""

import pytest
import torch

from moonshine_tune.core import device, hardware, precision
from moonshine_tune.core.device import (
    autocast,
    choose_device,
    choose_dtype,
    clear_cache_every,
    memory_mb,
)
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.precision import passed_gradient_check, record_gradient_check

_REASON = "not on this machine"


def _only(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    available = {"cpu", *present}
    monkeypatch.setattr(
        device,
        "_unavailable_reason",
        lambda name: None if name.split(":")[0] in available else _REASON,
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")


@pytest.mark.parametrize(
    ("present", "expected"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda")]
)
def test_auto_chooses_the_best_device_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], expected: str
) -> None:
    _only(monkeypatch, *present)
    choice = choose_device("auto")
    assert choice.device.type == expected
    assert choice.reason
    assert choose_device(None) == choice


def test_an_unavailable_device_is_an_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _only(monkeypatch)
    for name in ("mps", "cuda", "cuda:1"):
        with pytest.raises(MachineError, match=_REASON):
            choose_device(name)
    assert choose_device("CPU").device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps:0:1", "tpu"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="no device is called"):
        choose_device(name)


def test_a_cuda_index_past_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError, match="2 CUDA devices found"):
        choose_device("cuda:2")
    assert choose_device("cuda:1").device.index == 1


def test_number_formats_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype(torch.device("cpu")).dtype == torch.float32
    assert choose_dtype(torch.device("mps")).dtype == torch.float32
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "_cuda_has_bfloat16", lambda has=has: has)
        assert choose_dtype(torch.device("cuda")).dtype == expected
    with pytest.raises(MachineError, match="no bfloat16"):
        choose_dtype(torch.device("cuda"), "bfloat16")


def test_auto_never_chooses_float16() -> None:
    for name in ("cpu", "mps"):
        choice = choose_dtype(torch.device(name), "float16")
        assert choice.dtype == torch.float16
        assert "65,504" in choice.reason
        assert choose_dtype(torch.device(name)).dtype != torch.float16
    with pytest.raises(RequestError, match="no number format 'int8'"):
        choose_dtype(torch.device("cpu"), "int8")


def test_bfloat16_on_mps_needs_the_check_on_this_machine_with_this_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mps = torch.device("mps")
    with pytest.raises(MachineError, match="not verified") as caught:
        choose_dtype(mps, "bfloat16")
    assert "moonshine-tune doctor" in (caught.value.hint or "")
    record_gradient_check("mps", "bfloat16", torch.__version__, passed=False)
    with pytest.raises(MachineError, match="not verified"):
        choose_dtype(mps, "bfloat16")
    record_gradient_check("mps", "bfloat16", torch.__version__, passed=True)
    assert choose_dtype(mps, "bfloat16").dtype == torch.bfloat16
    assert torch.__version__ in choose_dtype(mps, "bfloat16").reason
    # Even a verified format is never chosen by "auto".
    assert choose_dtype(mps).dtype == torch.float32
    # The result says nothing about another device, torch or chip.
    assert not passed_gradient_check("cuda", "bfloat16", torch.__version__)
    assert not passed_gradient_check("mps", "bfloat16", "99.0")
    monkeypatch.setattr(precision, "chip_name", lambda: "Apple M99")
    with pytest.raises(MachineError, match="not verified"):
        choose_dtype(mps, "bfloat16")


def test_an_unreadable_record_counts_as_no_check() -> None:
    record_gradient_check("mps", "bfloat16", "2.9", passed=True)
    (hardware.cache_root() / "gradient-checks.json").write_text("[1")
    assert not passed_gradient_check("mps", "bfloat16", "2.9")
    record_gradient_check("mps", "bfloat16", "2.9", passed=True)
    assert passed_gradient_check("mps", "bfloat16", "2.9")


def test_autocast_computes_in_the_given_format() -> None:
    values = torch.randn(4, 4)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with autocast(torch.device("cpu"), dtype):
            assert (values @ values).dtype == dtype


def test_the_mps_cache_is_cleared_every_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[int] = []
    held = {"driver": 3 << 30}
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: cleared.append(1))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: held["driver"])
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1 << 30)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 << 30)
    mps, cpu = torch.device("mps"), torch.device("cpu")
    steps = [step for step in range(1, 10) if clear_cache_every(mps, step, 3)]
    assert steps == [3, 6, 9]
    assert len(cleared) == 3
    assert not any(clear_cache_every(mps, step, 0) for step in range(1, 10))
    assert not any(clear_cache_every(cpu, step, 1) for step in range(1, 10))
    held["driver"] = 2 << 30
    assert not clear_cache_every(mps, 3, 3), "a small cache keeps its compiled graphs"


def test_mps_memory_comes_from_torch_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 3_000_000_000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5_000_000_000)
    reading = memory_mb(torch.device("mps"))
    assert (reading.device_mb, reading.device_driver_mb) == (3000, 5000)


def test_memory_readings_are_plausible() -> None:
    reading = memory_mb(torch.device("cpu"))
    assert 50 < reading.resident_mb <= reading.peak_resident_mb < hardware.total_memory_mb()
    assert (reading.device_mb, reading.device_driver_mb) == (0, None)


def test_chip_and_memory_are_known() -> None:
    assert hardware.chip_name().strip()
    assert hardware.total_memory_mb() > 500
    available = hardware.available_memory_mb()
    assert available is not None
    assert 0 < available <= hardware.total_memory_mb()


def test_a_cpu_pads_to_the_longest_clip_only() -> None:
    assert device.batch_width(1001, torch.device("cpu")) == 1001
    assert device.batch_width(1001, torch.device("meta")) == device.round_up_to_bucket(1001) > 1001


def test_where_shapes_cost_two_sizes_an_octave_serve_all_clips_and_texts() -> None:
    mps = torch.device("mps")
    assert len({device.batch_width(length, mps) for length in range(20, 1_260)}) == 9
    assert {device.text_width(length, mps) for length in range(1, 65)} == {16, 32, 48, 64}
    for length in (1, 65, 257, 8_001, 479_999):
        width = device.batch_width(length, mps)
        assert length <= width <= max(1.5 * length, length + 63)
        assert device.batch_width(width, mps) == width
    assert [device.batch_rows(count, mps) for count in (1, 3, 5, 7, 9, 13)] == [1, 3, 6, 8, 12, 16]
    cpu = torch.device("cpu")
    assert device.text_width(65, cpu) == device.round_up_to_bucket(65)
    assert device.batch_rows(5, cpu) == 5


def test_buckets_are_few_and_close() -> None:
    """At most eight per octave, at most 12.5 % larger, and a bucket size stays as it is."""
    lengths = range(8_000, 480_001)
    sizes = {device.round_up_to_bucket(length) for length in lengths}
    assert len(sizes) <= 50
    for length in (1, 2, 7, 9, 15, 17, 8_001, 479_999):
        size = device.round_up_to_bucket(length)
        assert length <= size <= length * 9 / 8
        assert device.round_up_to_bucket(size) == size
