"""What is asked of a search, checked in full, and made into its folder or compared with it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from moonshine_tune.ablation.folder import OBJECTIVES, Ablation, open_ablation
from moonshine_tune.ablation.space import Layers, SearchSpace
from moonshine_tune.ablation.study import PRUNERS, SAMPLERS, without_password
from moonshine_tune.audio.noise_bank import open_noise_bank
from moonshine_tune.config.resolve import PATH_SETTINGS, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import disk_errors, sha256_of
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.provenance import command_line, git_state, platform_summary, versions
from moonshine_tune.corpus.manifest import Manifest, read_manifest
from moonshine_tune.data.replay_audio import remade, with_replay_audio
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.recordings import check_recordings
from moonshine_tune.runs.records import AblationRecord

_EXPLICIT = ("flag", "--set")
_DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class AblateRequest:
    """What is asked of a search. To continue one, `out` alone is enough.

    Attributes:
        space: what varies.
        layers: settings on top of those of the space file, weakest first; from "flag" and "--set"
            a setting that the space varies is refused.
        trials: trials to begin in all; None: every point of a grid, else 20 or what time allows.
        minutes: no trial begins after so many; those that run finish.
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

    @property
    def all_layers(self) -> Layers:
        """The layers with the number of steps."""
        if self.steps is None:
            return self.layers
        return (*self.layers, ("flag", unflatten({"train.steps": self.steps})))


def prepare_ablation(request: AblateRequest, progress: Progress) -> Ablation:
    """The ablation of `request.out`: opened and checked against the request, or newly made.

    Replay audio that has no manifest yet is made first: all trials replay the same.

    Raises:
        RequestError, ProblemsError: the request makes no sense, the folder holds something else or
            another search, a manifest is wrong or has changed.
    """
    _check_request(request)
    locks = request.out / "locks"
    with disk_errors(request.out):
        locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "setup.lock"):
        if (request.out / "ablation.json").exists():
            return _continued(open_ablation(request.out), request, progress)
        if any(path != locks for path in request.out.iterdir()):
            raise RequestError(
                "the folder is not empty", where=request.out, hint="choose another --out"
            )
        try:
            ablation = _new(request, progress)
        except BaseException:
            (locks / "setup.lock").unlink(missing_ok=True)
            locks.rmdir()
            request.out.rmdir()
            raise
        ablation.record.write(ablation.record_path)
        return ablation


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
            "this search cannot start", problems, hint="see: moonshine-tune ablate run --help"
        )


def _new(request: AblateRequest, progress: Progress) -> Ablation:
    space = request.space
    if space is None:
        raise RequestError(
            "no search space", hint="name a file or a shipped one with: --space adapter"
        )
    _check_not_searched(space, request.all_layers)
    resolved = resolve_settings([*space.layers, *request.all_layers])
    resolved, replay = with_replay_audio(resolved, progress)
    progress.say(replay.remark)
    settings = resolved.settings
    if settings.data.canary is None and any("data.replay" in d.keys for d in space.dimensions):
        raise RequestError(
            "data.replay varies and there is no canary: part of the replay clips would be scored",
            hint="name general speech for all trials with: --canary canary.jsonl",
        )
    objectives = request.objectives or ("dev_wer",)
    data = _fingerprints(settings, _manifests(settings, objectives))
    sampler = request.sampler or "tpe"
    identity = [space.to_record(), _without_paths(settings), data, objectives, sampler]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    record = AblationRecord(
        schema_version=1,
        kind="ablation",
        command=command_line(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        space_name=space.name,
        space=space.to_record(),
        settings=settings.model_dump(mode="json"),
        sources=resolved.sources,
        data=data,
        study=request.study or f"moonshine-tune-{digest[:12]}",
        storage=None if request.storage is None else without_password(request.storage),
        sampler=sampler,
        pruner=request.pruner or "none",
        objectives=list(objectives),
        seed=request.seed or 0,
        trials=_num_trials(request, space, sampler),
        versions=versions(),
        platform=platform_summary(),
        git=git_state(Path(__file__).parent),
    )
    return Ablation(request.out, record, space, settings)


def _num_trials(request: AblateRequest, space: SearchSpace, sampler: str) -> int | None:
    if sampler == "grid":
        points = len(space.grid())
        return min(request.trials or points, points)
    if request.trials is None and request.minutes is None:
        return _DEFAULT_TRIALS
    return request.trials


def _check_not_searched(space: SearchSpace, layers: Layers) -> None:
    owners = {key: item.name for item in space.dimensions for key in item.keys}
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


def _manifests(settings: RunSettings, objectives: Sequence[str]) -> dict[str, Manifest]:
    """All manifests of a search: an error in one shows before the first trial."""
    data = settings.data
    named = {
        "train": data.train,
        "dev": data.dev,
        "canary": data.canary,
        "replay": data.replay,
        "synthetic": data.synthetic,
        "pseudo_labels": data.pseudo_labels,
    }
    for name in ("train", "dev"):
        if named[name] is None:
            raise RequestError(f"no {name} manifest", hint=f"name it with: --{name} {name}.jsonl")
    if named["canary"] is None and "canary_loss" in objectives:
        raise RequestError(
            "canary_loss is an objective and there is no canary",
            hint="name general speech with: --canary canary.jsonl",
        )
    manifests = {}
    for name, path in named.items():
        if not isinstance(path, Path):
            continue
        manifest = read_manifest(path, require_text=name in ("train", "dev", "synthetic"))
        tests = sum(item.split == "test" for item in manifest.utterances)
        if name in ("train", "dev") and tests:
            raise RequestError(
                f"{tests} utterances of the {name} manifest are marked as test",
                where=path,
                hint="choosing by test data spoils it: moonshine-tune data split makes a dev set",
            )
        manifests[name] = manifest
    return manifests


def _fingerprints(settings: RunSettings, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """sha256 of each file of data."""
    data = settings.data
    fingerprints = {name: manifest.sha256 for name, manifest in manifests.items()}
    if data.terms is not None:
        fingerprints["terms"] = sha256_of(data.terms)
    for name, path in (("noise", settings.augment.noise), ("rooms", settings.augment.rooms)):
        if path is not None:
            fingerprints[name] = open_noise_bank(path, name).fingerprint
    return fingerprints


def _without_paths(settings: RunSettings) -> dict[str, Any]:
    """Settings without the paths of files, which differ between machines."""
    flat = _flat(settings)
    return unflatten({key: value for key, value in flat.items() if key not in PATH_SETTINGS})


def _continued(known: Ablation, request: AblateRequest, progress: Progress) -> Ablation:
    """The recorded search, with the number of trials that is asked for now.

    Raises:
        ProblemsError: something else is asked for than was recorded, or a manifest or the sound of
            recordings has changed.
    """
    problems = []
    if request.space is not None and request.space.to_record() != known.space.to_record():
        problems.append("the search space is another one")
    flags = [
        ("--sampler", request.sampler, known.record.sampler),
        ("--prune", request.pruner, known.record.pruner),
        ("--objective", list(request.objectives) or None, known.record.objectives),
        ("--seed", request.seed, known.record.seed),
        ("--study", request.study, known.record.study),
        ("--storage", request.storage and without_password(request.storage), known.record.storage),
    ]
    named = [flag for flag in flags if flag[1] is not None]
    named += _named_settings(known, request, progress)
    problems += [
        f"{name} was {_shown(recorded)} and is now {_shown(requested)}"
        for name, requested, recorded in named
        if requested != recorded
    ]
    if isinstance(known.settings.data.replay, Path):
        remade(known.settings.data.replay, progress)
    manifests = _manifests(known.settings, known.record.objectives)
    now = _fingerprints(known.settings, manifests)
    problems += [
        f"the {name} manifest has changed since the search began"
        for name, sha256 in known.record.data.items()
        if now.get(name) != sha256
    ]
    if problems:
        raise ProblemsError(
            f"{known.path} holds another search",
            problems,
            hint="continue it with the same request, or start another one with another --out",
        )
    sound = {name: manifest.utterances for name, manifest in manifests.items()}
    for path in sorted((known.path / "trials").glob("*/")):
        check_recordings(RunFolder(path), sound, SilentProgress())
    trials = _num_trials(request, known.space, known.record.sampler)
    if request.trials is None or trials == known.record.trials:
        return known
    record = known.record.model_copy(update={"trials": trials})
    record.write(known.record_path)
    return replace(known, record=record)


def _named_settings(
    known: Ablation, request: AblateRequest, progress: Progress
) -> list[tuple[str, Any, Any]]:
    """Each setting that the request names, with its value now and in the search."""
    layers = request.all_layers
    if request.space is not None and layers:
        layers = (*request.space.layers, *layers)
    named = {key for _, content in layers for key, _ in flatten(content)}
    resolved = resolve_settings(layers)
    if resolved.sources.get("data.replay") not in _EXPLICIT and not known.settings.data.replay:
        # A preset's own: a search of an earlier version had none, and goes on without.
        named.discard("data.replay")
    if "data.replay" in named:
        resolved, _ = with_replay_audio(resolved, progress)
    before, now = _flat(known.settings), _flat(resolved.settings)
    return [(key, now[key], before[key]) for key in sorted(named)]


def _flat(settings: RunSettings) -> Mapping[str, Any]:
    return dict(flatten(settings.model_dump(mode="json")))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)
