"""The folder of an ablation: what is searched, over which settings and data, in `ablation.json`.

Beside it are `trials/0001/` and so on (normal run folders), `logs/`, `locks/`, the database
`trials.db` where no other one is named, and `trials.json`, a copy of the results for other
programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moonshine_tune.ablation.space import Scalar, SearchSpace
from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.provenance import command_line, git_state, platform_summary, versions
from moonshine_tune.core.text import first_line

SCHEMA_VERSION = 1
OBJECTIVES = ("dev_wer", "canary_loss", "latency", "adapter_mb", "train_seconds")


@dataclass(frozen=True)
class Ablation:
    """A search as its folder describes it.

    Attributes:
        data: sha256 of each manifest.
        study: name of the Optuna study in the database.
        storage: database URL without its password; None for the SQLite file of the folder.
        objectives: what is minimized, of `OBJECTIVES`.
        seed: of the sampler and of the order of a grid.
        trials: how many may begin in all; None for no limit.
    """

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
        """The file with all this."""
        return self.path / "ablation.json"

    @property
    def starting_point(self) -> dict[str, Scalar] | None:
        """The point of the space with the starting settings; None where they lie outside."""
        return self.space.point_of(self.settings)

    def trial_folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def trial_settings(self, number: int, params: Mapping[str, Scalar]) -> ResolvedSettings:
        """The settings of one trial, each with its source.

        Raises:
            ProblemsError: these values do not go together.
        """
        point = self.space.settings_of(params)
        base = self.settings.model_dump(mode="json")
        source = f"trial {number}"
        resolved = resolve_settings([("ablation", base), (source, point)])
        varied = {key: source for key, _ in flatten(point)}
        return replace(resolved, sources={**self.sources, **varied})

    def database_url(self, given: str | None) -> str:
        """The database of the search: the given one, the recorded one, or the folder's own file.

        Raises:
            RequestError: the URL needs a password, which is not recorded, and none was given.
        """
        if given:
            return given
        if self.storage is None:
            return f"sqlite:///{(self.path / 'trials.db').absolute()}"
        if "***" in self.storage:
            raise RequestError(
                "the password of the database is not recorded",
                where=self.record_path,
                hint="give --storage again, or a URL without password and PGPASSWORD or ~/.pgpass",
            )
        return self.storage

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
    record = read_json(file)
    same = ("sources", "data", "study", "storage", "sampler", "pruner", "seed", "trials")
    try:
        return Ablation(
            path=path,
            space=SearchSpace.from_record(record["space_name"], record["space"]),
            settings=RunSettings.model_validate(record["settings"]),
            objectives=tuple(record["objectives"]),
            **{key: record[key] for key in same},
        )
    except (ValueError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        raise RequestError(f"cannot be read: {text}", where=file) from error
