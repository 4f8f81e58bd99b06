"""Evaluations of the same clips side by side: the base and the adapted model, torch and runtime."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from moonshine_tune.runs.records import EvaluationRecord, SpeakerRecord, SystemRecord

# In the order in which they are shown, with their titles.
SYSTEMS = {
    ("base", "torch"): "Base, torch",
    ("base", "runtime"): "Base, runtime",
    ("parent", "torch"): "Adapter before, torch",
    ("adapted", "torch"): "Adapted, torch",
    ("adapted", "runtime"): "Adapted, runtime",
}
SystemKey = tuple[str, str]


@dataclass(frozen=True)
class SideBySide:
    """One set and what was scored on it.

    Attributes:
        systems: by side and back end, as in `SYSTEMS`.
        speakers: of those that have a name.
    """

    name: str
    systems: dict[SystemKey, SystemRecord] = field(default_factory=dict)
    speakers: dict[str, SpeakerRecord] = field(default_factory=dict)

    @property
    def has_both_backends(self) -> bool:
        """Whether torch and runtime can be compared."""
        return {"torch", "runtime"} <= {backend for _, backend in self.systems}

    @property
    def has_parent(self) -> bool:
        """Whether the adapter that the run started at was scored."""
        return ("parent", "torch") in self.systems


def side_by_side(
    evaluations: Iterable[tuple[str, str, EvaluationRecord]], names: Mapping[str, str]
) -> tuple[SideBySide, ...]:
    """Each set with all that was scored on it; none where only base and adapted model are there.

    Evaluations belong together if they have the same manifest and normalizer.

    Args:
        evaluations: name of the set, side (`base`, `adapted`, or empty where it is not known), and
            the record.
        names: of sets by the hash of their manifest, such as `dev`.
    """
    sets: dict[tuple[str, str | None], SideBySide] = {}
    for name, side, record in evaluations:
        key = record.manifest_sha256 or name, record.normalizer
        title = names.get(record.manifest_sha256, name)
        part = sets.setdefault(key, SideBySide(title))
        for system in record.systems or [_only_system(side, record)]:
            part.systems.setdefault((system.side, system.backend), system)
        part.speakers.update(record.speakers)
    if not any(part.has_both_backends or part.has_parent for part in sets.values()):
        return ()
    return tuple(
        replace(part, systems={key: part.systems[key] for key in columns([part])})
        for part in sets.values()
    )


def columns(sets: Iterable[SideBySide]) -> list[SystemKey]:
    """The systems that any of the sets has, in their order."""
    there = {key for part in sets for key in part.systems}
    return [key for key in SYSTEMS if key in there]


def _only_system(side: str, record: EvaluationRecord) -> SystemRecord:
    """The system of an evaluation that scored one: exported files are of an adapted model."""
    is_adapted = record.adapter is not None or record.exported is not None
    return SystemRecord(
        side=side or ("adapted" if is_adapted else "base"),
        backend=record.backend,
        by_speaker=record.by_speaker,
        **{name: getattr(record, name) for name in ("wer", "ci95", "utterances")},
    )
