"""The folder of an ablation: what is searched, over which settings and data, in `ablation.json`.

Beside it are `trials/0001/` and so on (normal run folders), `logs/`, `locks/`, the database
`trials.db` where no other one is named, and `trials.json`, a copy of the results for other
programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.ablation.space import Scalar, SearchSpace
from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.text import first_line
from moonshine_tune.runs.records import AblationRecord

OBJECTIVES = ("dev_wer", "canary_loss", "latency", "adapter_mb", "train_seconds")


@dataclass(frozen=True)
class Ablation:
    """A search as its folder describes it: its record, with the space and the settings in it."""

    path: Path
    record: AblationRecord
    space: SearchSpace
    settings: RunSettings

    @property
    def record_path(self) -> Path:
        """The file of the record."""
        return self.path / "ablation.json"

    @property
    def is_shared(self) -> bool:
        """Whether several machines may work on it: it has a database of its own choice."""
        return self.record.storage is not None

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
        return replace(resolved, sources={**self.record.sources, **varied})

    def database_url(self, given: str | None) -> str:
        """The database of the search: the given one, the recorded one, or the folder's own file.

        Raises:
            RequestError: the URL needs a password, which is not recorded, and none was given.
        """
        if given:
            return given
        if self.record.storage is None:
            return f"sqlite:///{(self.path / 'trials.db').absolute()}"
        if "***" in self.record.storage:
            raise RequestError(
                "the password of the database is not recorded",
                where=self.record_path,
                hint="give --storage again, or a URL without password and PGPASSWORD or ~/.pgpass",
            )
        return self.record.storage


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
    record = AblationRecord.read(file)
    try:
        return Ablation(
            path=path,
            record=record,
            space=SearchSpace.from_record(record.space_name, record.space),
            settings=RunSettings.model_validate(record.settings),
        )
    except (ValueError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        raise RequestError(f"cannot be read: {text}", where=file) from error
