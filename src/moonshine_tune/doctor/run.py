"""Whether this machine can train. Each check runs by itself, so that a broken install is reported.

Nothing that may be broken is imported at the top: torch and everything that imports it are imported
inside the checks.
"""

import functools
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moonshine_tune.core.environment import DEFAULTS
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.files import free_disk_mb
from moonshine_tune.core.hardware import (
    available_memory_mb,
    cache_root,
    chip_name,
    python_version,
    total_memory_mb,
)
from moonshine_tune.core.network import why_unreachable
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.core.version import VERSION
from moonshine_tune.doctor.dependencies import REPLACED, installed_packages, why_not_importable
from moonshine_tune.runs.cached_results import cached_results

if TYPE_CHECKING:
    import torch

    from moonshine_tune.doctor.gradients import GradientComparison, LoadModel
    from moonshine_tune.models.base import SpeechModel

OK, WARNING, FAILURE = "ok", "warning", "failure"
_LITTLE_MEMORY_MB = 7_500
_LOW_DISK_MB, _NO_DISK_MB = 5_000, 1_000
_PYTHONS = ((3, 11), (3, 13))
_REINSTALL = "install again: pip install --upgrade moonshine-tune"


@dataclass(frozen=True)
class DoctorSettings:
    """What to check.

    Attributes:
        model: name or folder of the model for the gradient check; None uses a cached tiny, or else
            random weights.
        fetch: fetch tiny for that check if it is missing.
        offline: use no network.
        out: folder of later runs, whose disk is checked.
        device: as in training; None chooses the best.
    """

    model: str | None = None
    fetch: bool = False
    offline: bool = False
    out: Path = Path()
    device: str | None = None


@dataclass(frozen=True)
class DoctorCheck:
    """A finding with the status ok, warning or failure; a failure makes training impossible."""

    group: str
    name: str
    status: str
    figure: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All findings, for pasting into a bug report: without host, user and home folder."""

    version: str
    can_train: bool
    failures: int
    warnings: int
    checks: tuple[DoctorCheck, ...]


_Checks = Iterator[DoctorCheck]


def _ok(name: str, figure: str) -> DoctorCheck:
    return DoctorCheck("", name, OK, figure)


def _warn_if(problem: bool, name: str, figure: str, advice: str) -> DoctorCheck:
    """A warning with advice if there is a problem, else ok."""
    return DoctorCheck("", name, WARNING, figure, advice) if problem else _ok(name, figure)


def _failure(name: str, figure: str, advice: str = "") -> DoctorCheck:
    return DoctorCheck("", name, FAILURE, figure, advice)


def examine(settings: DoctorSettings, progress: Progress) -> DoctorReport:
    """Run all checks. A check that raises becomes a finding."""
    parts: list[tuple[str, str, Callable[[], _Checks]]] = [
        ("machine", "chip", _chip),
        ("machine", "memory", _memory),
        ("machine", "system", _system),
        ("stack", "Python", _python),
        ("stack", "packages", _packages),
        ("compute", "compute", functools.partial(_compute, settings, progress)),
        ("runtime", "Moonshine runtime", _runtime),
        ("files", "files", functools.partial(_files, settings)),
        ("environment", "environment", _environment),
        ("sources", "sources", functools.partial(_sources, settings)),
    ]
    checks: list[DoctorCheck] = []

    def add(group: str, check: DoctorCheck) -> None:
        figure, advice = _publishable(check.figure), _publishable(check.advice)
        checks.append(replace(check, group=group, figure=figure, advice=advice))

    with progress.stage("doctor", len(parts)) as stage:
        for group, name, part in parts:
            try:
                for check in part():
                    add(group, check)
            except (Exception, SystemExit) as error:
                # Some packages raise SystemExit if they are installed wrong.
                status = FAILURE if group in ("stack", "compute") else WARNING
                figure = f"this check failed: {_described(error)}"
                add(group, DoctorCheck(group, name, status, figure, _REINSTALL))
            stage.advance(1, name)
    failures = sum(check.status == FAILURE for check in checks)
    warnings = sum(check.status == WARNING for check in checks)
    return DoctorReport(VERSION, failures == 0, failures, warnings, tuple(checks))


def _chip() -> _Checks:
    yield _ok("chip", f"{chip_name()} ({platform.machine()})")


def _memory() -> _Checks:
    total, available = total_memory_mb(), available_memory_mb()
    figure = f"{total:,} MB" + ("" if available is None else f", {available:,} MB available")
    yield _warn_if(total < _LITTLE_MEMORY_MB, "memory", figure, "train tiny, with a small batch")


def _system() -> _Checks:
    if sys.platform == "darwin":
        advice = "on Apple silicon, use a Python for arm64: MPS needs it"
        is_translated = platform.machine() == "x86_64"
        yield _warn_if(is_translated, "system", f"macOS {platform.mac_ver()[0]}", advice)
        return
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = f"{platform.system()} {platform.release()}"
    yield _ok("system", system)


def _python() -> _Checks:
    version = platform.python_version()
    oldest, newest = (".".join(map(str, numbers)) for numbers in _PYTHONS)
    advice = f"use Python {oldest} to {newest}"
    if python_version() < _PYTHONS[0]:
        yield _failure("Python", version, advice)
    else:
        yield _warn_if(python_version() > _PYTHONS[1], "Python", version, advice)


def _packages() -> _Checks:
    for state in installed_packages():
        package = state.package
        figure = f"{state.version or 'missing'} (needs {package.minimum}): {package.role}"
        advice = f'pip install "{package.name}>={package.minimum}"'
        if package.needed and not state.new_enough:
            yield _failure(package.name, figure, advice)
        else:
            yield _warn_if(not state.new_enough, package.name, figure, advice)
    for name, reason in REPLACED:
        yield _ok(name, reason)


def _compute(settings: DoctorSettings, progress: Progress) -> _Checks:
    broken = why_not_importable("torch")
    if broken is None:
        try:
            import torch
        except Exception as error:
            broken = _described(error)
    if broken is not None:
        advice = "install torch for this system (https://pytorch.org/get-started), then try again"
        yield _failure("torch loads", broken, advice)
        yield _failure("gradients", "not checked: torch does not load")
        return
    yield _ok("torch loads", torch.__version__)
    yield from _accelerators()
    from moonshine_tune.core.device import choose_device, choose_dtype

    try:
        choice = choose_device(settings.device)
    except TuneError as error:
        yield _failure("device", str(error), error.hint or "")
        return
    yield _ok("device", f"{choice.device}: {choice.reason}")
    dtype = choose_dtype(choice.device)
    name = str(dtype.dtype).removeprefix("torch.")
    yield _ok("number format", f"{name}: {dtype.reason}")
    yield from _gradients(settings, choice.device, progress)


def _accelerators() -> _Checks:
    import torch

    built, available = torch.backends.mps.is_built(), torch.backends.mps.is_available()
    figure = f"built: {_yes(built)}, available: {_yes(available)}"
    is_missing = sys.platform == "darwin" and platform.machine() == "arm64" and not available
    advice = "update macOS (15 or later) and torch: pip install --upgrade torch"
    yield _warn_if(is_missing, "MPS", figure, advice)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    yield _ok("CUDA", names or "none")


def _gradients(settings: DoctorSettings, device: "torch.device", progress: Progress) -> _Checks:
    load, model = _model_to_check(settings, progress)
    yield model
    from moonshine_tune.doctor.gradients import compare_with_cpu

    try:
        result = compare_with_cpu(load, device)
    except (Exception, SystemExit) as error:
        advice = f"try another device: moonshine-tune doctor --device cpu ({_REINSTALL})"
        yield _failure("gradients", f"no result: {_described(error)}", advice)
        return
    yield _gradient_check(result)
    if device.type != "cpu":
        yield from _training_checks(load, device)
        yield _sixteen_bit_check(load, device)
        yield _frozen_check(load, device)
    if device.type == "mps":
        operators = result.fallback_operators
        figure = f"{len(operators)} operators run on the CPU {' '.join(operators)}".strip()
        advice = "slower, but correct; a newer torch may have them"
        yield _warn_if(bool(operators), "MPS fallbacks", figure, advice)
    else:
        yield _ok("MPS fallbacks", f"0: the device is {device}")


def _training_checks(load: "LoadModel", device: "torch.device") -> _Checks:
    """What has been wrong on accelerators, by name, and the code that trains."""
    from moonshine_tune.doctor.operators import PROBES, wrong_operators
    from moonshine_tune.doctor.training_step import compare_training

    advice = f"{device} computes wrong: train with --device cpu, and update torch and the system"
    faults = wrong_operators(device)
    if faults:
        yield _failure("operators", "; ".join(map(str, faults)), advice)
    else:
        yield _ok("operators", f"{len(PROBES)} that have been wrong elsewhere agree with the CPU")
    try:
        result = compare_training(load, device)
    except (Exception, SystemExit) as error:
        yield _failure("training step", f"no result: {_described(error)}", advice)
        return
    if result.wrong:
        yield _failure("training step", "; ".join(result.wrong), advice)
    else:
        yield _ok("training step", result.summary)
    yield _ok("step time", result.timing)


def _frozen_check(load: "LoadModel", device: "torch.device") -> DoctorCheck:
    """Frozen weights in bfloat16; the result is recorded, because MPS gets them only after it."""
    import torch

    from moonshine_tune.core.device import FROZEN_BFLOAT16
    from moonshine_tune.core.precision import record_gradient_check
    from moonshine_tune.doctor.training_step import compare_training

    name, agrees, advice = "frozen weights in bfloat16", False, "runs here take them in float32"
    try:
        result = compare_training(load, device, frozen=torch.bfloat16)
        agrees, figure = not result.wrong, "; ".join(result.wrong) or result.summary
    except (Exception, SystemExit) as error:
        figure = f"no result: {_described(error)}"
    record_gradient_check(device.type, FROZEN_BFLOAT16, torch.__version__, passed=agrees)
    if agrees:
        return _ok(name, f"{figure}: you may set device.frozen_weights=bfloat16")
    return _warn_if(True, name, figure, advice if device.type == "mps" else "use float32")


def _sixteen_bit_check(load: "LoadModel", device: "torch.device") -> DoctorCheck:
    """bfloat16 on an accelerator; the result is recorded, because training requires it."""
    import torch

    from moonshine_tune.core.precision import record_gradient_check
    from moonshine_tune.doctor.gradients import compare_with_cpu

    name, agrees, advice = "gradients in bfloat16", False, "use float32 on this machine"
    try:
        result = compare_with_cpu(load, device, mixed=True)
        agrees = result.agrees
        figure = (
            f"loss differs by {result.loss_difference:.1e}, gradients by "
            f"{result.gradient_difference:.1e}, at most {result.worst_difference:.1e}"
        )
    except (Exception, SystemExit) as error:
        figure = f"no result: {_described(error)}"
    record_gradient_check(device.type, "bfloat16", torch.__version__, passed=agrees)
    if agrees:
        return _ok(name, f"{figure}: you may set device.dtype=bfloat16")
    return _warn_if(True, name, figure, advice)


def _gradient_check(result: "GradientComparison") -> DoctorCheck:
    figure = (
        f"{result.device} against {result.reference}: loss {result.loss:.3f} differs by "
        f"{result.loss_difference:.1e}, gradients by {result.gradient_difference:.1e}, at most "
        f"{result.worst_difference:.1e} ({result.worst_tensor}), {result.seconds:.1f} s"
    )
    if result.agrees:
        return _ok("gradients", figure)
    advice = "this device computes wrong: train with --device cpu, and update torch"
    if result.device == "cpu":
        advice = "this torch computes wrong: install the newest one (pip install --upgrade torch)"
    return _failure("gradients", figure, advice)


def _model_to_check(
    settings: DoctorSettings, progress: Progress
) -> "tuple[LoadModel, DoctorCheck]":
    """A function that loads the model of the gradient check, and a finding that names it."""
    from moonshine_tune.doctor.gradients import random_model
    from moonshine_tune.models.checkpoint import load_checkpoint
    from moonshine_tune.registry.resolve import cached_model, resolve_model

    resolved, problem = None, ""
    try:
        if settings.model or settings.fetch:
            name = settings.model or "tiny"
            resolved = resolve_model(name, offline=settings.offline, progress=progress)
        else:
            resolved = cached_model("tiny")
    except TuneError as error:
        problem = f" ({error})"
    if resolved is None:
        figure = f"random weights of tiny's shape{problem}"
        advice = "check the real model with: moonshine-tune doctor --fetch"
        return random_model, _warn_if(True, "model", figure, advice)
    folder = resolved.checkpoint_dir

    def load(device: "torch.device", dtype: "torch.dtype") -> "SpeechModel":
        # The attention that training uses on the device.
        attention = "eager" if device.type == "mps" else "sdpa"
        return load_checkpoint(folder, device=device, dtype=dtype, attention=attention)

    return load, _ok("model", f"{resolved.name} ({resolved.source}: {resolved.reason})")


def _runtime() -> _Checks:
    problem = why_not_importable("moonshine_voice")
    advice = "training works without it; for evaluation as deployed: pip install moonshine-voice"
    yield _warn_if(bool(problem), "moonshine-voice loads", problem or "yes", advice)


def _files(settings: DoctorSettings) -> _Checks:
    cache = "free some space, or set MOONSHINE_TUNE_CACHE to a folder on another disk"
    output = "free some space, or write to another disk with --out"
    for name, folder, advice in (
        ("disk for cache", cache_root(), cache),
        ("disk for output", settings.out.absolute(), output),
    ):
        free = free_disk_mb(folder)
        figure = f"{free:,} MB free at {folder}"
        if folder == cache_root() and (kept := sum(cached_results().values())):
            command = "moonshine-tune runs clean --cache"
            figure += f"; {kept // 1_000_000:,} MB kept for later runs ({command})"
        if free < _NO_DISK_MB:
            yield _failure(name, figure, advice)
        else:
            yield _warn_if(free < _LOW_DISK_MB, name, figure, advice)
    has_ffmpeg = shutil.which("ffmpeg") is not None
    yield _ok("ffmpeg", "found" if has_ffmpeg else "not found: only needed for M4A recordings")


def _environment() -> _Checks:
    for name, (value, reason) in DEFAULTS.items():
        actual = os.environ.get(name)
        if actual is None:
            advice = f"set it before Python starts: {name}={value}"
            yield _warn_if(True, name, "not set", advice)
        elif actual == value:
            yield _ok(name, f"{actual} (our default: {reason})")
        else:
            yield _ok(name, f"{actual} (yours; our default is {value})")
    yield _ok("processes", "one, without loader workers: forked processes and MPS do not mix")


def _sources(settings: DoctorSettings) -> _Checks:
    if settings.offline:
        yield _ok("network", "not checked (--offline)")
        return
    from moonshine_tune.registry.hub import hub_endpoint, offline_by_environment
    from moonshine_tune.registry.moonshine_store import STORE_URL
    from moonshine_tune.registry.wheel import why_index_unreachable

    forbidden = offline_by_environment()
    if forbidden:
        yield _ok("hub", f"not checked ({forbidden})")
    for name, url in (("hub", hub_endpoint()), ("Moonshine's store", STORE_URL)):
        if not (forbidden and name == "hub"):
            problem = why_unreachable(url)
            advice = "tiny is also on the package index"
            yield _warn_if(bool(problem), name, problem or "reachable", advice)
    problem = why_index_unreachable()
    advice = "only needed to fetch tiny for the first time"
    yield _warn_if(bool(problem), "package index", problem or "has the wheel", advice)


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"


def _described(error: BaseException) -> str:
    name, message = type(error).__name__, first_line(error, 300)
    return name if message == name else f"{name}: {message}"


def _publishable(text: str) -> str:
    """`text` without the home folder, user names in paths, and the name of this machine."""
    text = text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text
    text = re.sub(r"(/Users|/home)/[^/\s:'\"]+", "~", text)
    host = platform.node()
    return re.sub(rf"\b{re.escape(host)}\b", "(host)", text) if len(host) > 2 else text
