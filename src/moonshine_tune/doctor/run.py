"""Is this machine fit to train? Each check stands alone, so that a broken install is told about.

Nothing that may be broken is imported above: torch and everything that imports it are loaded
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
from moonshine_tune.core.version import VERSION
from moonshine_tune.doctor.dependencies import REPLACED, installed_packages, why_not_importable

if TYPE_CHECKING:
    import torch

    from moonshine_tune.doctor.gradients import GradientComparison, LoadModel
    from moonshine_tune.models.base import SpeechModel

OK, WARNING, FAILURE = "ok", "warning", "failure"
_LITTLE_MEMORY_MB = 7_500
_LOW_DISK_MB, _NO_DISK_MB = 5_000, 1_000
_REINSTALL = "install again: pip install --upgrade moonshine-tune"


@dataclass(frozen=True)
class DoctorSettings:
    """What to look at.

    Attributes:
        model: a name or folder for the gradient check; None takes a cached tiny, or else random
            weights.
        fetch: tiny may be fetched for that check.
        offline: no source is asked whether it can be reached, nothing is fetched.
        out: where runs will be written; its disk is checked.
        device: as for training; None lets the program choose.
    """

    model: str | None = None
    fetch: bool = False
    offline: bool = False
    out: Path = Path()
    device: str | None = None


@dataclass(frozen=True)
class Check:
    """One finding: `status` is ok, warning or failure; a failure means training cannot work."""

    group: str
    name: str
    status: str
    figure: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All findings, made for pasting into an issue: no host, user or home folder is named."""

    version: str
    can_train: bool
    failures: int
    warnings: int
    checks: tuple[Check, ...]


_Checks = Iterator[Check]


def examine(settings: DoctorSettings, progress: Progress) -> DoctorReport:
    """Run every check. A check that breaks is a finding itself, never an exception."""
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
    checks: list[Check] = []
    with progress.stage("doctor", len(parts)) as stage:
        for group, name, part in parts:
            try:
                for check in part():
                    checks.append(check)
            except (Exception, SystemExit) as error:
                # Some packages leave by SystemExit when they are installed wrong.
                status = FAILURE if group in ("stack", "compute") else WARNING
                told = f"this check broke: {_told(error)}"
                checks.append(Check(group, name, status, told, _REINSTALL))
            stage.advance(1, name)
    checks = [
        replace(check, figure=_publishable(check.figure), advice=_publishable(check.advice))
        for check in checks
    ]
    failures = sum(check.status == FAILURE for check in checks)
    warnings = sum(check.status == WARNING for check in checks)
    return DoctorReport(VERSION, failures == 0, failures, warnings, tuple(checks))


def _chip() -> _Checks:
    yield Check("machine", "chip", OK, f"{chip_name()} ({platform.machine()})")


def _memory() -> _Checks:
    total, available = total_memory_mb(), available_memory_mb()
    figure = f"{total:,} MB" + ("" if available is None else f", {available:,} MB available")
    advice = "" if total >= _LITTLE_MEMORY_MB else "train tiny, with a small batch"
    yield Check("machine", "memory", WARNING if advice else OK, figure, advice)


def _system() -> _Checks:
    if sys.platform == "darwin":
        system, translated = f"macOS {platform.mac_ver()[0]}", platform.machine() == "x86_64"
        advice = "on Apple silicon, use a Python for arm64: MPS needs it" if translated else ""
        yield Check("machine", "system", WARNING if translated else OK, system, advice)
        return
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = f"{platform.system()} {platform.release()}"
    yield Check("machine", "system", OK, system)


def _python() -> _Checks:
    version, figure = python_version(), platform.python_version()
    if version < (3, 11):
        yield Check("stack", "Python", FAILURE, figure, "use Python 3.11 or 3.12")
    elif version > (3, 12):
        yield Check(
            "stack", "Python", WARNING, figure, "tested with 3.11 and 3.12: use one of them"
        )
    else:
        yield Check("stack", "Python", OK, figure)


def _packages() -> _Checks:
    for state in installed_packages():
        package = state.package
        figure = f"{state.version or 'missing'} (needs {package.minimum}): {package.role}"
        if state.new_enough:
            yield Check("stack", package.name, OK, figure)
            continue
        advice = f'pip install "{package.name}>={package.minimum}"'
        status = FAILURE if package.needed else WARNING
        yield Check("stack", package.name, status, figure, advice)
    for name, reason in REPLACED:
        yield Check("stack", name, OK, reason)


def _compute(settings: DoctorSettings, progress: Progress) -> _Checks:
    broken = why_not_importable("torch")
    if broken is None:
        try:
            import torch
        except Exception as error:
            broken = _told(error)
    if broken is not None:
        advice = "install torch for this system (https://pytorch.org/get-started), then try again"
        yield Check("compute", "torch loads", FAILURE, broken, advice)
        yield Check("compute", "gradients", FAILURE, "not checked: torch does not load")
        return
    yield Check("compute", "torch loads", OK, torch.__version__)
    yield from _accelerators()
    from moonshine_tune.core.device import choose_device, choose_dtype

    try:
        choice = choose_device(settings.device)
    except TuneError as error:
        yield Check("compute", "device", FAILURE, str(error), error.hint or "")
        return
    yield Check("compute", "device", OK, f"{choice.device}: {choice.reason}")
    dtype = choose_dtype(choice.device)
    name = str(dtype.dtype).removeprefix("torch.")
    yield Check("compute", "number format", OK, f"{name}: {dtype.reason}")
    yield from _gradients(settings, choice.device, progress)


def _accelerators() -> _Checks:
    import torch

    built, available = torch.backends.mps.is_built(), torch.backends.mps.is_available()
    figure = f"built: {_yes(built)}, available: {_yes(available)}"
    lost = sys.platform == "darwin" and platform.machine() == "arm64" and not available
    advice = "update macOS (14 or newer) and torch: pip install --upgrade torch" if lost else ""
    yield Check("compute", "MPS", WARNING if lost else OK, figure, advice)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    yield Check("compute", "CUDA", OK, names or "none")


def _gradients(settings: DoctorSettings, device: "torch.device", progress: Progress) -> _Checks:
    load, model = _model_to_check(settings, progress)
    yield model
    from moonshine_tune.doctor.gradients import compare_with_cpu

    try:
        result = compare_with_cpu(load, device)
    except (Exception, SystemExit) as error:
        advice = f"try another device: moonshine-tune doctor --device cpu ({_REINSTALL})"
        yield Check("compute", "gradients", FAILURE, f"no result: {_told(error)}", advice)
        return
    yield _gradient_check(result)
    if device.type != "cpu":
        yield _half_check(load, device)
    if device.type == "mps":
        operators = result.fallback_operators
        figure = f"{len(operators)} operators run on the CPU {' '.join(operators)}".strip()
        advice = "slower, not wrong; a newer torch may have them" if operators else ""
        yield Check("compute", "MPS fallbacks", WARNING if operators else OK, figure, advice)
    else:
        yield Check("compute", "MPS fallbacks", OK, f"0: the device is {device}")


def _half_check(load: "LoadModel", device: "torch.device") -> Check:
    """bfloat16 on an accelerator; what comes out is remembered, and training asks for it."""
    import torch

    from moonshine_tune.core.precision import remember_format
    from moonshine_tune.doctor.gradients import compare_with_cpu

    name = "gradients in bfloat16"
    try:
        result = compare_with_cpu(load, device, mixed=True)
    except (Exception, SystemExit) as error:
        remember_format(device.type, "bfloat16", torch.__version__, passed=False)
        return Check("compute", name, WARNING, f"no result: {_told(error)}", "stay with float32")
    remember_format(device.type, "bfloat16", torch.__version__, passed=result.agrees)
    figure = (
        f"loss differs by {result.loss_difference:.1e}, gradients by "
        f"{result.gradient_difference:.1e}, at most {result.worst_difference:.1e}"
    )
    if result.agrees:
        return Check("compute", name, OK, f"{figure}: device.dtype=bfloat16 may be used")
    return Check("compute", name, WARNING, figure, "stay with float32 on this machine")


def _gradient_check(result: "GradientComparison") -> Check:
    figure = (
        f"{result.device} against {result.reference}: loss {result.loss:.3f} differs by "
        f"{result.loss_difference:.1e}, gradients by {result.gradient_difference:.1e}, at most "
        f"{result.worst_difference:.1e} ({result.worst_tensor}), {result.seconds:.1f} s"
    )
    if result.agrees:
        return Check("compute", "gradients", OK, figure)
    advice = "this device computes wrong: train with --device cpu, and update torch"
    if result.device == "cpu":
        advice = "this torch computes wrong: install the newest one (pip install --upgrade torch)"
    return Check("compute", "gradients", FAILURE, figure, advice)


def _model_to_check(settings: DoctorSettings, progress: Progress) -> "tuple[LoadModel, Check]":
    """How to load the model of the gradient check, and the finding that says which it is."""
    from moonshine_tune.doctor.gradients import random_model
    from moonshine_tune.models.checkpoint import load_checkpoint
    from moonshine_tune.registry.resolve import cached_model, resolve_model

    found, refusal = None, None
    try:
        if settings.model or settings.fetch:
            found = resolve_model(
                settings.model or "tiny", offline=settings.offline, progress=progress
            )
        else:
            found = cached_model("tiny")
    except TuneError as error:
        refusal = str(error)
    if found is None:
        figure = "random weights of tiny's shape" + (f" ({refusal})" if refusal else "")
        advice = "check the real model with: moonshine-tune doctor --fetch"
        return random_model, Check("compute", "model", WARNING, figure, advice)
    folder = found.checkpoint_dir
    check = Check("compute", "model", OK, f"{found.name} ({found.source}: {found.reason})")

    def load(device: "torch.device", dtype: "torch.dtype") -> "SpeechModel":
        # The attention that training uses there.
        attention = "eager" if device.type == "mps" else "sdpa"
        return load_checkpoint(folder, device=device, dtype=dtype, attention=attention)

    return load, check


def _runtime() -> _Checks:
    broken = why_not_importable("moonshine_voice")
    if broken is None:
        yield Check("runtime", "moonshine-voice loads", OK, "yes")
        return
    advice = "training works without it; for evaluation as deployed: pip install moonshine-voice"
    yield Check("runtime", "moonshine-voice loads", WARNING, broken, advice)


def _files(settings: DoctorSettings) -> _Checks:
    for name, place in (("cache", cache_root()), ("output", settings.out.absolute())):
        free = free_disk_mb(place)
        status = OK if free >= _LOW_DISK_MB else WARNING if free >= _NO_DISK_MB else FAILURE
        where = (
            "set MOONSHINE_TUNE_CACHE to a folder on another disk"
            if name == "cache"
            else "write elsewhere with --out"
        )
        advice = "" if status == OK else f"free some space, or {where}"
        yield Check("files", f"disk for {name}", status, f"{free:,} MB free at {place}", advice)
    ffmpeg = shutil.which("ffmpeg")
    note = "found" if ffmpeg else "not found: only needed for M4A recordings"
    yield Check("files", "ffmpeg", OK, note)


def _environment() -> _Checks:
    for name, (value, reason) in DEFAULTS.items():
        actual = os.environ.get(name)
        if actual is None:
            advice = f"set it before Python starts: {name}={value}"
            yield Check("environment", name, WARNING, "not set", advice)
        elif actual == value:
            yield Check("environment", name, OK, f"{actual} (our default: {reason})")
        else:
            yield Check("environment", name, OK, f"{actual} (yours; our default is {value})")
    note = "one process, no loader workers: forked workers and MPS do not go together"
    yield Check("environment", "processes", OK, note)


def _sources(settings: DoctorSettings) -> _Checks:
    if settings.offline:
        yield Check("sources", "network", OK, "not asked (--offline)")
        return
    from moonshine_tune.registry.hub import hub_endpoint, offline_by_environment
    from moonshine_tune.registry.moonshine_store import STORE_URL

    forbidden = offline_by_environment()
    addresses = {"hub": hub_endpoint(), "Moonshine's store": STORE_URL}
    if forbidden:
        yield Check("sources", "hub", OK, f"not asked ({forbidden})")
        del addresses["hub"]
    for name, url in addresses.items():
        refused = why_unreachable(url)
        advice = "tiny also comes from the package index" if refused else ""
        yield Check("sources", name, WARNING if refused else OK, refused or "reachable", advice)
    from moonshine_tune.registry.wheel import why_index_unreachable

    refused = why_index_unreachable()
    advice = "only needed to fetch tiny for the first time" if refused else ""
    yield Check(
        "sources", "package index", WARNING if refused else OK, refused or "has the wheel", advice
    )


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _publishable(text: str) -> str:
    """`text` without the home folder, the user's name in a path, or this machine's name."""
    text = text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text
    text = re.sub(r"(/Users|/home)/[^/\s:'\"]+", "~", text)
    host = platform.node()
    return re.sub(rf"\b{re.escape(host)}\b", "(host)", text) if len(host) > 2 else text
