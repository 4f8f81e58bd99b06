"""Where the files of a run are now: its manifests and noises, also after it was moved.

run.json has their absolute paths, and `relative_paths` those from the run folder. A run that was
moved together with its data is read from its new place.
"""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.config.resolve import PATH_SETTINGS
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.nested import flatten
from moonshine_tune.runs.records import RunRecord

_FLAGS = {"data.train": "--train", "data.dev": "--dev", "data.canary": "--canary",
          "data.replay": "--replay", "data.synthetic": "--synthetic",
          "data.unlabelled": "--unlabelled"}  # fmt: skip


@dataclass(frozen=True)
class RunLocations:
    """The files of a run by setting, such as `data.train`.

    Attributes:
        present: those that exist, at their paths now.
        moved: of these, the ones that are not where run.json has them.
        changed: of these, the manifests whose content is not that which the run was started with.
        missing: the others, at their paths in run.json.
    """

    run: Path
    present: Mapping[str, Path]
    moved: Mapping[str, Path]
    changed: Mapping[str, Path]
    missing: Mapping[str, Path]

    @property
    def resume_command(self) -> str:
        """The command that records where the missing files are."""
        words = ["moonshine-tune", "train", "--resume", "--out", str(self.run)]
        for name, path in self.missing.items():
            flag = _FLAGS.get(name)
            words += [flag, path.name] if flag else ["--set", f"{name}={path.name}"]
        return shlex.join(words)

    @property
    def remarks(self) -> list[str]:
        """A sentence for each file that is not where run.json has it."""
        return [f"{name}: moved with the run, now {path}" for name, path in self.moved.items()]

    @property
    def changes(self) -> list[str]:
        """A sentence for each manifest that is not what it was."""
        return [
            f"{name}: {path} has changed since the run was started"
            for name, path in self.changed.items()
        ]

    def describe_missing(self, name: str) -> str:
        """A sentence on a file that is neither where it was nor beside the run."""
        return f"{name} is not at {self.missing[name]} any more, and not beside the run"


def relative_paths(run: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Paths of a run's files from its folder, by setting."""
    flat = dict(flatten(settings))
    named = {name: flat.get(name) for name in PATH_SETTINGS}
    root = run.absolute()
    return {
        name: Path(os.path.relpath(Path(str(path)).absolute(), root)).as_posix()
        for name, path in named.items()
        if path is not None
    }


def locate(run: Path, record: RunRecord, names: Iterable[str] | None = None) -> RunLocations:
    """Look for the files of a run where run.json has them, then beside the run.

    Of two that exist, the one whose content the run was started with.

    Args:
        names: of the settings; None for all that are paths.
    """
    flat = dict(flatten(record.settings))
    present: dict[str, Path] = {}
    moved: dict[str, Path] = {}
    changed: dict[str, Path] = {}
    missing: dict[str, Path] = {}
    for name in PATH_SETTINGS if names is None else names:
        value = flat.get(name)
        if not isinstance(value, str):
            continue
        recorded, candidates = Path(value), [Path(value)]
        if relative := record.relative_paths.get(name):
            # As it is written, then as the file system reads it: links lead elsewhere.
            candidates += [
                Path(os.path.normpath(run.absolute() / relative)),
                run.resolve() / relative,
            ]
        existing = [path for path in candidates if path.exists()]
        digest = record.data.get(name.removeprefix("data."))
        same = (path for path in existing if path.is_file() and sha256_of(path) == digest)
        as_recorded = next(same, None)
        path = as_recorded or (existing[0] if existing else None)
        if path is None:
            missing[name] = recorded
            continue
        present[name] = path
        if digest and as_recorded is None and path.is_file():
            changed[name] = path
        if path != recorded:
            moved[name] = path
    return RunLocations(run, present, moved, changed, missing)
