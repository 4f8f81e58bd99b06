"""Choice of device and number format, each with its reason; memory readings."""

import pytest
import torch

from moonshine_tune import device, machine
from moonshine_tune.device import choose_device, choose_dtype, memory_mb
from moonshine_tune.errors import MachineError, RequestError

_REASON = "not on this machine"


def _only(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    here = {"cpu", *present}
    monkeypatch.setattr(
        device, "_why_missing", lambda name: None if name.split(":")[0] in here else _REASON
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")


@pytest.mark.parametrize(
    ("present", "expected"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda")]
)
def test_the_best_device_is_taken_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], expected: str
) -> None:
    _only(monkeypatch, *present)
    choice = choose_device("auto")
    assert choice.device.type == expected
    assert choice.reason
    assert choose_device(None) == choice


def test_a_missing_device_that_was_asked_for_is_an_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _only(monkeypatch)
    for name in ("mps", "cuda", "cuda:1"):
        with pytest.raises(MachineError, match=_REASON):
            choose_device(name)
    assert choose_device("CPU").device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps:0:1", "tpu"])
def test_other_names_are_wrong_requests(name: str) -> None:
    with pytest.raises(RequestError, match="no device is called"):
        choose_device(name)


def test_a_cuda_number_beyond_the_last_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError, match="2 CUDA devices found"):
        choose_device("cuda:2")
    assert choose_device("cuda:1").device.index == 1


def test_number_formats_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype(torch.device("cpu")).dtype == torch.float32
    assert choose_dtype(torch.device("mps")).dtype == torch.float32
    assert choose_dtype(torch.device("mps"), "bf16").dtype == torch.bfloat16
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "_cuda_has_bfloat16", lambda has=has: has)
        assert choose_dtype(torch.device("cuda")).dtype == expected
    with pytest.raises(MachineError, match="no bfloat16"):
        choose_dtype(torch.device("cuda"), "bfloat16")


def test_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(RequestError) as caught:
        choose_dtype(torch.device("cpu"), "fp16")
    assert "NaN" in str(caught.value.hint)


def test_memory_readings_are_plausible() -> None:
    reading = memory_mb(torch.device("cpu"))
    assert 50 < reading.resident_mb <= reading.peak_resident_mb < machine.total_memory_mb()
    assert (reading.device_mb, reading.device_driver_mb) == (0, None)


def test_the_machine_tells_its_chip_and_memory() -> None:
    assert machine.chip_name().strip()
    assert machine.total_memory_mb() > 500
    available = machine.available_memory_mb()
    assert available is not None
    assert 0 < available <= machine.total_memory_mb()
