"""A run that is resumed: the same run, with its own settings, and a record of what changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import PATH_SETTINGS, ResolvedSettings, resolve_settings
from moonshine_tune.config.resume import check_resumed
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import command_line
from moonshine_tune.core.text import quoted
from moonshine_tune.data.replay_audio import made_before
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.records import LegRecord, RunRecord

# run.json says with this that the folder is a training run.
JOB = "train"
# The source of the settings that a resumed run takes from its record.
RUN_SOURCE = "run.json"


@dataclass(frozen=True)
class ContinuedRun:
    """A run to resume.

    Attributes:
        record: as it was before the resume.
        resolved: its settings with what the resume changes; its files at their paths now.
        remarks: which files were found at another path.
    """

    run: RunFolder
    record: RunRecord
    resolved: ResolvedSettings
    remarks: tuple[str, ...]

    @property
    def scored_clip_s(self) -> float | None:
        """Longest clip of the scored sets, as in the first leg: scores stay comparable."""
        first = self.record.legs[0].settings if self.record.legs else self.record.settings
        value = dict(flatten(first)).get("data.max_clip_s")
        return float(value) if isinstance(value, int | float) else None

    def begin_leg(
        self,
        resolved: ResolvedSettings,
        content: Mapping[str, Any],
        progress: Progress,
        steps_done: int,
    ) -> None:
        """Write the settings now in force into run.json; a change makes it a leg of its own.

        Args:
            resolved: the settings, after the check of the memory.
            content: what run.json has of a leg.
            steps_done: after how many steps the run continues.
        """
        record = self.record
        changes = check_resumed(record.settings, resolved, record.normalizer)
        given = {key: src for key, src in resolved.sources.items() if src != RUN_SOURCE}
        update = dict(content) | {"sources": record.sources | given}
        machine = ("device", "dtype", "processes")
        before = {name: _name_of(getattr(record, name)) for name in machine}
        now = {name: _name_of(content[name]) for name in machine}
        moved = {n: (before[n], now[n]) for n in machine if before[n] not in (None, now[n])}
        if not changes and not moved:
            self.run.update_record(**update)
            return
        first_step = steps_done + 1
        first, *legs = record.legs or [_first_leg(record)]
        leg = LegRecord(
            first_step=first_step,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command_line(),
            settings=content["settings"],
            changed=changes,
            **{name: content[name] for name in machine},
        )
        # Of the others, those of which steps are left; what they scored at the start stays.
        kept = [item for item in legs if item.first_step < first_step]
        update["legs"] = [item.to_json() for item in (first, *kept, leg)]
        values = ", ".join(f"{n} {old} → {new}" for n, (old, new) in (changes | moved).items())
        remark = f"resumed at step {first_step} with other settings: {values}"
        update["remarks"] = [*record.remarks, remark]
        self.run.update_record(**update)
        progress.say(remark)


def _name_of(value: Any) -> Any:
    """Of a device or number format its name; why it was chosen may change."""
    return value.get("name") if isinstance(value, Mapping) else value


def _first_leg(record: RunRecord) -> LegRecord:
    return LegRecord(
        first_step=1,
        created=record.created,
        command=record.command,
        settings=record.settings,
        device=record.device,
        dtype=record.dtype,
        processes=record.processes,
    )


def continue_run(out: Path, resolved: ResolvedSettings) -> ContinuedRun:
    """Open a run to resume it. What may not change, or is not there any more, is refused.

    Raises:
        RequestError: it was not made by train.
        ProblemsError: settings that cannot change at a resume, or files that are not there.
    """
    run = RunFolder.open(out)
    record = run.read_record()
    if record.job != JOB:
        raise RequestError(
            "this folder was not made by `moonshine-tune train`",
            where=run.path,
            hint="name the folder that was given to it as --out",
        )
    if reason := altered_adapter(run.adapter_dir):
        # A resumed run writes its own adapter again.
        kept = run.path / "adapter-changed"
        raise RequestError(
            f"{reason}, and a resumed run writes its own adapter there again",
            where=run.path,
            hint=f"move it first: mv {quoted(run.adapter_dir)} {quoted(kept)}",
        )
    resolved, remarks = _with_locations(run.path, record, _without_newer_replay(record, resolved))
    check_resumed(record.settings, resolved, record.normalizer)
    return ContinuedRun(run, record, resolved, remarks)


def _without_newer_replay(record: RunRecord, resolved: ResolvedSettings) -> ResolvedSettings:
    """A run of an earlier version goes on without the replay audio that its preset has now."""
    by_preset = resolved.sources.get("data.replay", "").startswith("preset ")
    if dict(flatten(record.settings)).get("data.replay") or not by_preset:
        return resolved
    data = resolved.settings.data.model_copy(update={"replay": None})
    settings = resolved.settings.model_copy(update={"data": data})
    return ResolvedSettings(settings, resolved.sources)


def _with_locations(
    run: Path, record: RunRecord, resolved: ResolvedSettings
) -> tuple[ResolvedSettings, tuple[str, ...]]:
    """The settings with the run's files at their paths now, where the resume names no others."""
    recorded = dict(flatten(record.settings))
    now = dict(flatten(resolved.settings.model_dump(mode="json")))
    kept = [n for n in PATH_SETTINGS if recorded.get(n) and now[n] == recorded[n]]
    if "data.replay" in kept and made_before(Path(recorded["data.replay"])):
        # Of the cache, which can be emptied: it is made again where it is read.
        kept.remove("data.replay")
    locations = locate(run, record, kept)
    if locations.missing:
        raise ProblemsError(
            f"{run}: files of this run are not there",
            [locations.describe_missing(name) for name in locations.missing],
            hint=f"name them at their paths now, once: {locations.resume_command}",
        )
    if not locations.moved:
        return resolved, ()
    paths = {name: str(path) for name, path in locations.moved.items()}
    moved = resolve_settings([(RUN_SOURCE, unflatten(now | paths))])
    return ResolvedSettings(moved.settings, resolved.sources), tuple(locations.remarks)
