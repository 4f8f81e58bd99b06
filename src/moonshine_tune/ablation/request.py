"""What is asked of a search, checked as a whole, and made into its folder or matched with it."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from moonshine_tune.ablation.folder import Ablation, open_ablation
from moonshine_tune.ablation.sampling import OBJECTIVES, PRUNERS, SAMPLERS
from moonshine_tune.ablation.space import Layers, SearchSpace
from moonshine_tune.ablation.storage import masked
from moonshine_tune.audio.noise_bank import open_noise_bank
from moonshine_tune.config.resolve import PATH_SETTINGS, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import disk_errors, write_json_atomic
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.corpus.manifest import read_manifest

_EXPLICIT = ("flag", "--set")
_USUAL_TRIALS = 20
_HINT_NEW = "continue it with the same request, or start another one with another --out"


@dataclass(frozen=True)
class AblateRequest:
    """What is asked of a search. To continue one, `out` alone is enough.

    Attributes:
        space: what varies.
        layers: settings on top of those of the space file, weakest first; from "flag" and "--set"
            a setting that the space varies is refused.
        trials: trials to begin in all; None: every point of a grid, else 20 or what time allows.
        minutes: no trial is begun after so many; those under way end.
        steps: training steps of each trial.
        storage: database URL; None for the folder's own SQLite file.
        study: name of the study in the database; None for one made from space, settings and data,
            so that several machines with the same request find each other.
        workers: trials at a time, each in a process; 0: one at a time in this process.
        sampler: `tpe`, `random` or `grid`.  pruner: `none` or `median`.
        objectives: what is minimized, of `OBJECTIVES`.
    """

    out: Path
    space: SearchSpace | None = None
    layers: Layers = ()
    trials: int | None = None
    minutes: float | None = None
    steps: int | None = None
    storage: str | None = None
    study: str | None = None
    workers: int = 1
    sampler: str | None = None
    pruner: str | None = None
    objectives: tuple[str, ...] = ()
    seed: int | None = None


def prepare_ablation(request: AblateRequest) -> Ablation:
    """The ablation of `request.out`: opened and checked against the request, or newly made.

    Raises:
        RequestError, ProblemsError: what is asked for makes no sense, the folder holds something
            else or another search, a manifest is wrong or has changed.
    """
    _check_request(request)
    with disk_errors(request.out):
        (request.out / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(request.out / "locks" / "setup.lock"):
        if (request.out / "ablation.json").exists():
            known = open_ablation(request.out)
            _check_same(known, request)
            if request.trials is not None and request.trials != known.trials:
                known = replace(known, trials=_num_trials(request, known.space, known.sampler))
                record = json.loads(known.record_path.read_text(encoding="utf-8"))
                write_json_atomic(known.record_path, {**record, "trials": known.trials})
            return known
        strangers = [p.name for p in request.out.iterdir() if p.name != "locks"]
        if strangers:
            raise RequestError(
                "the folder is not empty", where=request.out, hint="choose another --out"
            )
        try:
            made = _make(request)
        except BaseException:
            (request.out / "locks" / "setup.lock").unlink(missing_ok=True)
            (request.out / "locks").rmdir()
            request.out.rmdir()
            raise
        write_json_atomic(made.record_path, made.to_record())
        return made


def _check_request(request: AblateRequest) -> None:
    problems = []
    for name, value, known in (
        ("--sampler", request.sampler, SAMPLERS),
        ("--prune", request.pruner, PRUNERS),
        *(("--objective", objective, OBJECTIVES) for objective in request.objectives),
    ):
        if value is not None and value not in known:
            problems.append(f"{name} {value!r} is not one of {', '.join(known)}")
    if len(set(request.objectives)) != len(request.objectives):
        problems.append("--objective: the same one twice")
    if request.pruner == "median" and len(request.objectives) > 1:
        problems.append("--prune needs a single objective")
    if request.pruner == "median" and request.objectives not in ((), ("dev_wer",)):
        problems.append("--prune goes by the dev WER: the objective must be dev_wer")
    for name, number in (("--trials", request.trials), ("--steps", request.steps)):
        if number is not None and number < 1:
            problems.append(f"{name} {number}: at least 1")
    if request.minutes is not None and not request.minutes > 0:
        problems.append(f"--minutes {request.minutes:g}: more than 0")
    if request.workers < 0:
        problems.append(f"--workers {request.workers}: at least 1")
    if problems:
        raise ProblemsError(
            "this search cannot be begun", problems, hint="see: moonshine-tune ablate run --help"
        )


def _make(request: AblateRequest) -> Ablation:
    space = request.space
    if space is None:
        raise RequestError(
            "no search space", hint="name a file or a shipped one with: --space adapter"
        )
    layers = _all_layers(request)
    _check_not_searched(space, layers)
    resolved = resolve_settings([*space.layers, *layers])
    settings = resolved.settings
    objectives = request.objectives or ("dev_wer",)
    if settings.data.canary is None and "data.replay" in _owners(space):
        raise RequestError(
            "data.replay varies and there is no canary: part of the replay clips would be scored",
            hint="name general speech for all trials with: --canary canary.jsonl",
        )
    data = _fingerprints(settings, objectives)
    sampler = request.sampler or "tpe"
    identity = [space.to_record(), _without_paths(settings), data, objectives, sampler]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Ablation(
        path=request.out,
        space=space,
        settings=settings,
        sources=resolved.sources,
        data=data,
        study=request.study or f"moonshine-tune-{digest[:12]}",
        storage=None if request.storage is None else masked(request.storage),
        sampler=sampler,
        pruner=request.pruner or "none",
        objectives=objectives,
        seed=request.seed or 0,
        trials=_num_trials(request, space, sampler),
    )


def _num_trials(request: AblateRequest, space: SearchSpace, sampler: str) -> int | None:
    if sampler == "grid":
        points = len(space.grid())
        return min(request.trials or points, points)
    if request.trials is None and request.minutes is None:
        return _USUAL_TRIALS
    return request.trials


def _owners(space: SearchSpace) -> dict[str, str]:
    """For each setting that varies, the dimension that moves it."""
    return {key: item.name for item in space.dimensions for key in item.keys}


def _check_not_searched(space: SearchSpace, layers: Layers) -> None:
    owners = _owners(space)
    problems = [
        f"{key} is set by {source} and varied by the space ({owners[key]})"
        for source, content in layers
        if source in _EXPLICIT
        for key, _ in flatten(content)
        if key in owners
    ]
    if problems:
        raise ProblemsError(
            "settings are both fixed and searched",
            problems,
            hint="take them out of the space file, or off the command line",
        )


def _fingerprints(settings: RunSettings, objectives: tuple[str, ...]) -> dict[str, str]:
    """sha256 of each manifest; all of them are read, so that the first trial finds them whole."""
    data = settings.data
    named = {"train": data.train, "dev": data.dev, "canary": data.canary, "replay": data.replay}
    for name in ("train", "dev"):
        if named[name] is None:
            raise RequestError(f"no {name} manifest", hint=f"name it with: --{name} {name}.jsonl")
    if named["canary"] is None and "canary_loss" in objectives:
        raise RequestError(
            "canary_loss is an objective and there is no canary",
            hint="name general speech with: --canary canary.jsonl",
        )
    found = {}
    for name, path in named.items():
        if path is None:
            continue
        manifest = read_manifest(path, require_text=name in ("train", "dev"))
        tests = sum(item.split == "test" for item in manifest.utterances)
        if name in ("train", "dev") and tests:
            raise RequestError(
                f"{tests} utterances of the {name} manifest are marked as test",
                where=path,
                hint="choosing by test data spoils it: moonshine-tune data split makes a dev set",
            )
        found[name] = manifest.sha256
    for name, place in (("noise", settings.augment.noise), ("rooms", settings.augment.rooms)):
        if place is not None:
            found[name] = open_noise_bank(place, name).fingerprint
    return found


def _without_paths(settings: RunSettings) -> dict[str, Any]:
    """Settings without the places of files, which differ between machines."""
    record = settings.model_dump(mode="json")
    for name in PATH_SETTINGS:
        section, _, key = name.partition(".")
        record[section].pop(key)
    return record


def _check_same(known: Ablation, request: AblateRequest) -> None:
    """Whether a search may be continued as asked."""
    problems = []
    if request.space is not None and request.space.to_record() != known.space.to_record():
        problems.append("the search space is another one")
    for name, told, kept in (
        ("--sampler", request.sampler, known.sampler),
        ("--prune", request.pruner, known.pruner),
        ("--objective", request.objectives or None, known.objectives),
        ("--seed", request.seed, known.seed),
        ("--study", request.study, known.study),
        ("--storage", request.storage and masked(request.storage), known.storage),
    ):
        if told is not None and told != kept:
            problems.append(f"{name} was {_shown(kept)} and is now {_shown(told)}")
    problems += _changed_settings(known, request)
    problems += _changed_data(known)
    if problems:
        raise ProblemsError(
            f"{known.path} holds another search", list(dict.fromkeys(problems)), hint=_HINT_NEW
        )


def _changed_settings(known: Ablation, request: AblateRequest) -> list[str]:
    """Settings that the request names, where they differ from those of the search."""
    layers = _all_layers(request)
    if request.space is not None and layers:
        layers = (*request.space.layers, *layers)
    before = _flat(known.settings)
    now = _flat(resolve_settings(layers).settings)
    named = {key for _, content in layers for key, _ in flatten(content)}
    return [
        f"{key} was {_shown(before[key])} and is now {_shown(now[key])}"
        for key in sorted(named)
        if before[key] != now[key]
    ]


def _all_layers(request: AblateRequest) -> Layers:
    if request.steps is None:
        return request.layers
    return (*request.layers, ("flag", unflatten({"train.steps": request.steps})))


def _changed_data(known: Ablation) -> list[str]:
    now = _fingerprints(known.settings, known.objectives)
    return [
        f"the {name} manifest has changed since the search began"
        for name in known.data
        if now.get(name) != known.data[name]
    ]


def _flat(settings: RunSettings) -> dict[str, Any]:
    return dict(flatten(settings.model_dump(mode="json")))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)
