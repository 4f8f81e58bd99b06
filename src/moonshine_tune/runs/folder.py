"""The run folder: what a run was given, did and made, in files that a person can open.

`run.json`, `metrics.jsonl`, `tensorboard/`, `adapter/` (the best), `state/` (to resume), `eval/`;
`recordings.jsonl` (what it was made of, by content); `parent/` (the adapter that it started at)
where a run goes on from another one, `synthetic/` where texts were synthesized for it, and
`pseudo-labels/` where recordings without transcripts train.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors, read_lines, write_jsonl_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.core.locks import FOLDER_LOCK, writer_of
from moonshine_tune.core.provenance import command_line, git_state, platform_summary, versions
from moonshine_tune.runs.records import RunRecord, SelectionRecord

SCHEMA_VERSION = 1
SPEECH_FOLDER = "synthetic"
"""Speech that was synthesized for a run, inside its folder; it is there before the run starts."""

LABELS_FOLDER = "pseudo-labels"
"""Texts that a model wrote of recordings without transcripts; likewise."""


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_path = path / "run.json"
        self.metrics_path = path / "metrics.jsonl"
        self.recordings_path = path / "recordings.jsonl"
        self.tensorboard_dir = path / "tensorboard"
        self.adapter_dir = path / "adapter"
        self.selection_path = self.adapter_dir / "selection.json"
        self.state_dir = path / "state"
        self.eval_dir = path / "eval"
        self.dev_hypotheses_path = self.eval_dir / "dev.jsonl"
        self.parent_dir = path / "parent"
        # What the parent was trained on: a manifest.
        self.earlier_path = self.parent_dir / "train.jsonl"
        self.labels_dir = path / LABELS_FOLDER

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new run folder.

        Raises:
            RequestError: `path` exists already and is not an empty folder.
        """
        cls.check_new(path)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @staticmethod
    def check_new(path: Path) -> None:
        """Refuse a path at which no run can start; nothing is made.

        Raises:
            RequestError: as of `create`.
        """
        own = {FOLDER_LOCK, SPEECH_FOLDER, LABELS_FOLDER}
        if path.exists() and not path.is_dir():
            raise RequestError("a file, not a run folder", where=path, hint="choose another --out")
        if path.exists() and not {item.name for item in path.iterdir()} <= own:
            raise RequestError(
                "the run folder is not empty",
                where=path,
                hint="choose another --out, or continue that run with --resume",
            )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """A run folder that exists.

        Raises:
            RequestError: there is no run.json in it.
        """
        run = cls(path)
        if not run.record_path.is_file():
            raise RequestError(
                "not a run folder: run.json is missing",
                where=path,
                hint="name the folder that was given as --out to `moonshine-tune train`",
            )
        return run

    def write_record(self, **content: Any) -> None:
        """Write run.json: `content`, with versions, platform, git state and time."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "command": command_line(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **content,
            "versions": versions(),
            "platform": platform_summary(),
            "git": git_state(Path(__file__).parent),
        }
        RunRecord.model_validate(record).write(self.record_path)

    def update_record(self, **content: Any) -> None:
        """Add to run.json or replace what is there."""
        RunRecord.model_validate(self.read_record().to_json() | content).write(self.record_path)

    def read_record(self) -> RunRecord:
        """The content of run.json.

        Raises:
            RequestError: it is missing, not JSON, or has values of a wrong type.
        """
        return RunRecord.read(self.record_path)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with disk_errors(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl."""
        if not self.metrics_path.is_file():
            return []
        records = []
        for line in read_lines(self.metrics_path, lenient=True):
            # The last line of a run that was killed while it wrote is cut off.
            with suppress(JsonError):
                records.append(parse_json_object(line))
        return records

    def read_scores(self) -> list[SelectionRecord]:
        """The scores during the run, from the lines of metrics.jsonl that have a dev WER."""
        scores = [SelectionRecord.salvage(line)[0] for line in self.read_metrics()]
        return [score for score in scores if score.dev_wer is not None and score.step is not None]

    def cut_metrics(self, last_step: int) -> None:
        """Drop the lines after `last_step`: a resumed run writes them again."""
        kept = [record for record in self.read_metrics() if record.get("step", 0) <= last_step]
        write_jsonl_atomic(self.metrics_path, kept)


def status_now(path: Path, recorded: str | None) -> str | None:
    """The status of a run: `running` only while a process works in its folder.

    A run that is recorded as running without a process is `stopped`; one that was interrupted or
    has failed is running while it is resumed.
    """
    if recorded not in ("running", "interrupted", "failed"):
        return recorded
    if writer_of(path):
        return "running"
    return "stopped" if recorded == "running" else recorded
