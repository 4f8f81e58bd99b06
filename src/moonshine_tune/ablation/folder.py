"""The folder of an ablation: what is searched, over which settings and data, in `ablation.json`.

Beside it lie `trials/0001/` and so on (normal run folders), `logs/`, `locks/`, the database
`trials.db` where none is named, and `trials.json`, a copy of the results for other programs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moonshine_tune.ablation.sampling import StudyPlan
from moonshine_tune.ablation.space import Scalar, SearchSpace
from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.provenance import command_line, git_state, platform_summary, versions
from moonshine_tune.core.text import first_line

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Ablation:
    """A search as its folder describes it. `trials` is None where no number was set."""

    path: Path
    space: SearchSpace
    settings: RunSettings
    sources: Mapping[str, str]
    data: Mapping[str, str]
    study: str
    storage: str | None
    sampler: str
    pruner: str
    objectives: tuple[str, ...]
    seed: int
    trials: int | None

    @property
    def record_path(self) -> Path:
        """The file that holds all this."""
        return self.path / "ablation.json"

    @property
    def locks(self) -> Path:
        """Folder of the locks of this machine's processes."""
        return self.path / "locks"

    @property
    def own_url(self) -> str:
        """URL of the SQLite file of this folder."""
        return f"sqlite:///{(self.path / 'trials.db').absolute()}"

    def trial_folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def plan(self) -> StudyPlan:
        """What the database needs to know."""
        return StudyPlan(
            name=self.study,
            space=self.space,
            sampler=self.sampler,
            pruner=self.pruner,
            objectives=self.objectives,
            canary_bound=self.settings.select.canary_bound,
            start=self.space.point_of(self.settings),
            seed=self.seed,
        )

    def trial_settings(self, number: int, params: Mapping[str, Scalar]) -> ResolvedSettings:
        """The settings of one trial, each with its source.

        Raises:
            ProblemsError: these values do not go together.
        """
        point = self.space.settings_of(params)
        base = self.settings.model_dump(mode="json")
        source = f"trial {number}"
        resolved = resolve_settings([("ablation", base), (source, point)])
        moved = {key: source for key, _ in flatten(point)}
        return replace(resolved, sources={**self.sources, **moved})

    def to_record(self) -> dict[str, Any]:
        """The content of ablation.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "ablation",
            "command": command_line(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "space_name": self.space.name,
            "space": self.space.to_record(),
            "settings": self.settings.model_dump(mode="json"),
            "sources": dict(self.sources),
            "data": dict(self.data),
            "study": self.study,
            "storage": self.storage,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "objectives": list(self.objectives),
            "seed": self.seed,
            "trials": self.trials,
            "versions": versions(),
            "platform": platform_summary(),
            "git": git_state(Path(__file__).parent),
        }


def open_ablation(path: Path) -> Ablation:
    """Read the folder of an ablation.

    Raises:
        RequestError: it is not one, or cannot be read.
    """
    file = path / "ablation.json"
    if not file.is_file():
        raise RequestError(
            "not the folder of an ablation: ablation.json is missing",
            where=path,
            hint="name the folder that was given as --out to `moonshine-tune ablate run`",
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return Ablation(
            path=path,
            space=SearchSpace.from_record(record["space_name"], record["space"]),
            settings=RunSettings.model_validate(record["settings"]),
            sources=record["sources"],
            data=record["data"],
            study=record["study"],
            storage=record["storage"],
            sampler=record["sampler"],
            pruner=record["pruner"],
            objectives=tuple(record["objectives"]),
            seed=record["seed"],
            trials=record["trials"],
        )
    except (ValueError, KeyError, TypeError) as error:
        text = first_line(error)
        raise RequestError(f"cannot be read: {type(error).__name__}: {text}", where=file) from error


def storage_url(ablation: Ablation, told: str | None) -> str:
    """The database of a search: the one told now, the one it was begun with, or its own file.

    Raises:
        RequestError: the URL holds a password, which is never written down, and was not told.
    """
    if told:
        return told
    if ablation.storage is None:
        return ablation.own_url
    if "***" in ablation.storage:
        raise RequestError(
            "the password of the database is not kept",
            where=ablation.record_path,
            hint="give --storage again, or use a URL without password and PGPASSWORD or ~/.pgpass",
        )
    return ablation.storage
