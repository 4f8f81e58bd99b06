"""What the runs of a project came to: curves, transcripts, scores, and both models side by side."""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.normalizers import NORMALIZERS, Normalizer
from moonshine_tune.metrics.alignment import align
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.report.alignment import pair_up
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.records import EvaluationRecord, ExportRecord, RunRecord
from moonshine_tune.runs.summary import RunSummary, find_runs, read_run, read_scored
from moonshine_tune.studio.job_queue import Job, Jobs
from moonshine_tune.studio.labeling import NotFoundError
from moonshine_tune.studio.project import Project

_MAX_POINTS = 600
_MAX_TRANSCRIPTS = 12
_MAX_PAIRS = 500


class Results:
    """Reads the runs of a project; names come from their folder, never from a path."""

    def __init__(self, project: Project, jobs: Jobs) -> None:
        self._project, self._jobs = project, jobs

    def run_path(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            NotFoundError: the project has no such run.
        """
        path = self._runs().get(name)
        if path is None:
            raise NotFoundError(f"no run {name[:80]!r}", hint="load the page again")
        return path

    def has_run(self, name: str) -> bool:
        """Whether a run of this name has begun."""
        return name in self._runs()

    def summaries(self) -> list[RunSummary]:
        """All runs, the newest first."""
        summaries = [read_run(path) for path in self._runs().values()]
        return sorted(summaries, key=lambda item: item.created, reverse=True)

    @property
    def count(self) -> int:
        """Number of runs."""
        return len(self._runs())

    def listed(self) -> list[dict[str, Any]]:
        """A line for each run."""
        names = {path: name for name, path in self._runs().items()}
        return [
            {
                "name": names[item.path],
                "state": item.status,
                "model": item.model,
                "verdict": item.verdict,
                "scores": self._scores(names[item.path], item),
            }
            for item in self.summaries()
        ]

    def detail(self, name: str) -> dict[str, Any]:
        """One run: its curves and transcripts so far.

        Raises:
            NotFoundError: no such run, and no job that will make it.
        """
        job = self._job_of(name)
        path = self._runs().get(name)
        if path is None:
            if job is None:
                self.run_path(name)
            return {"name": name, "state": "preparing", "curve": [], "transcripts": [],
                    "scores": {}, "verdict": ""}  # fmt: skip
        summary = read_run(path)
        record = _read_record(path)
        return {
            "name": name,
            "state": summary.status,
            "model": summary.model,
            "steps": summary.steps,
            "of_steps": record.settings.get("train", {}).get("steps"),
            "curve": _curve(RunFolder(path)),
            "transcripts": self._transcripts(name, RunFolder(path), job),
            "scores": self._scores(name, summary),
            "verdict": summary.verdict,
            "voices": summary.voices,
            "remark": summary.remark,
        }

    def side_by_side(self, name: str) -> list[dict[str, Any]]:
        """The held-out clips with what both models write, the most changed first.

        Raises:
            NotFoundError: no such run.
            RequestError: it is not evaluated yet.
        """
        self.run_path(name)
        folder = self.evaluation_folder(name)
        if not (folder / "adapted" / "hypotheses.jsonl").is_file():
            raise RequestError("this run is not scored on held-out clips yet",
                               hint="evaluate it first")  # fmt: skip
        record = EvaluationRecord.read(folder / "adapted" / "result.json")
        normalizer = NORMALIZERS.get(str(record.normalizer), NORMALIZERS["basic-1"])
        pairs = pair_up(
            read_scored(folder / "base" / "hypotheses.jsonl"),
            read_scored(folder / "adapted" / "hypotheses.jsonl"),
        )
        ordered = sorted(pairs, key=lambda pair: (pair.change, pair.after.id))
        return [
            {
                "id": pair.after.id,
                "audio": self._audio_of(name, pair.after.id),
                "reference": pair.after.reference,
                "base": pair.before.hypothesis if pair.before else "",
                "adapted": pair.after.hypothesis,
                "base_diff": _diff(pair.before, normalizer),
                "adapted_diff": _diff(pair.after, normalizer),
            }
            for pair in ordered[:_MAX_PAIRS]
        ]

    def clip_of(self, name: str, identifier: str) -> Utterance:
        """A clip that a run was scored on, by its id.

        Raises:
            NotFoundError: no such run or clip.
        """
        run = self.run_path(name)
        # Without a dev set of its own, training holds out a part of its manifest.
        for manifest in (*self._manifests(run), *self.training_manifests(run).values()):
            for item in read_manifest(manifest, check_files=False).utterances:
                if item.id == identifier:
                    return item
        raise NotFoundError(f"no clip {identifier[:80]!r} in this run")

    def held_out(self, run: Path) -> Path:
        """The manifest of clips that a run did not see: beside its training manifest, else dev.

        Raises:
            RequestError: there is none.
        """
        for manifest in self._manifests(run):
            return manifest
        raise RequestError(
            "this run has no held-out clips: its manifests are gone, or it made dev itself",
            hint="score it on a manifest of yours: moonshine-tune evaluate --adapter RUN "
            "--manifest test.jsonl",
        )

    def evaluation_folder(self, name: str) -> Path:
        """Where the scores of a run on held-out clips are: `base` and `adapted`."""
        return self._project.folder / "evaluations" / name

    def adapted_evaluations(self) -> list[Path]:
        """Evaluations of adapted models whose words are still wrong; the last one."""
        for item in self.listed():
            folder = self.evaluation_folder(item["name"]) / "adapted"
            if (folder / "hypotheses.jsonl").is_file():
                return [folder]
        return []

    # --- files to download

    def exported_of(self, name: str) -> Path | None:
        """The newest exported folder of a run."""
        weights = self.run_path(name) / "adapter" / ADAPTER_WEIGHTS_FILE
        digest = sha256_of(weights) if weights.is_file() else ""
        paths = [
            path.parent
            for path in (self._project.folder / "exported").glob("*/export.json")
            if ExportRecord.read(path).adapter_sha256 == digest
        ]
        return max(paths, key=lambda path: path.stat().st_mtime, default=None)

    def exported_zip(self, name: str) -> Path:
        """An archive of an exported folder, in the scratch folder: the caller removes it.

        Raises:
            NotFoundError: no such folder.
        """
        folder = self._child("exported", name)
        handle, path = tempfile.mkstemp(suffix=".zip", dir=self._project.scratch)
        os.close(handle)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and not file.is_symlink():
                    archive.write(file, Path(name, file.relative_to(folder)))
        return Path(path)

    def package(self, name: str) -> Path:
        """The archive of a package.

        Raises:
            NotFoundError: no such package.
        """
        return self._child("packages", f"{name}.tar.gz")

    def _child(self, folder: str, name: str) -> Path:
        """A file or folder by its name in a folder of the project."""
        parent = self._project.folder / folder
        for path in parent.iterdir() if parent.is_dir() else ():
            if path.name == name and not name.startswith(".") and not path.is_symlink():
                return path
        raise NotFoundError(f"no {name[:80]!r} in {folder}/")

    # --- parts

    def _runs(self) -> dict[str, Path]:
        """Folder of each run, by its name below `runs`."""
        runs = self._project.folder / "runs"
        if not runs.is_dir():
            return {}
        return {path.relative_to(runs).as_posix(): path for path in find_runs(runs)}

    def _job_of(self, name: str) -> Job | None:
        jobs = (job for job in self._jobs.listed() if job.run == name)
        return next((job for job in jobs if job.kind in ("train", "resume")), None)

    def training_manifests(self, run: Path) -> dict[str, Path]:
        """The manifests `train` and `dev` of a run, as far as they are there."""
        present = locate(run, _read_record(run), ["data.train", "data.dev"]).present
        return {name.removeprefix("data."): path for name, path in present.items()}

    def _manifests(self, run: Path) -> list[Path]:
        """Manifests with clips that a run did not train on: its test set, then its dev set."""
        named = self.training_manifests(run)
        train, dev = named.get("train"), named.get("dev")
        test = train.with_name("test.jsonl") if train is not None else None
        return [path for path in (test, dev) if path is not None and path.is_file()]

    def _scores(self, name: str, summary: RunSummary) -> dict[str, float | None]:
        """WER in percent of a run: on dev and canary as training scored it, and on test."""
        scores = {
            "base_dev": summary.base_dev_wer,
            "dev": summary.dev_wer,
            "base_canary": summary.base_canary_wer,
            "canary": summary.canary_wer,
        }
        folder = self.evaluation_folder(name)
        for key, side in (("base_test", "base"), ("test", "adapted")):
            try:
                scores[key] = EvaluationRecord.read(folder / side / "result.json").wer
            except RequestError:
                scores[key] = None
        return scores

    def _transcripts(self, name: str, run: RunFolder, job: Job | None) -> list[dict[str, Any]]:
        """Some dev clips: what is spoken, and what was written at each score."""
        scored: Sequence[ScoredUtterance] = ()
        if run.dev_hypotheses_path.is_file():
            scored = read_scored(run.dev_hypotheses_path)
        steps = job.steps if job is not None else {}
        known = [
            {
                "id": item.id,
                "reference": item.reference,
                "base": next((s["text"] for s in steps.get(item.reference, [])), None),
                "adapted": item.hypothesis,
                "steps": steps.get(item.reference, []),
                "audio": self._audio_of(name, item.id),
            }
            for item in scored[:_MAX_TRANSCRIPTS]
        ]
        shown = {item["reference"] for item in known}
        known += [
            {"id": None, "reference": reference, "base": written[0]["text"],
             "adapted": written[-1]["text"], "steps": written, "audio": None}
            for reference, written in steps.items()
            if reference not in shown and written
        ]  # fmt: skip
        return known[:_MAX_TRANSCRIPTS]

    def _audio_of(self, name: str, identifier: str) -> str:
        return f"/api/runs/{quote(name, safe='')}/clips/{quote(identifier, safe='')}/audio"


def _read_record(path: Path) -> RunRecord:
    """The record of a run; an empty one where it is damaged."""
    try:
        return RunFolder(path).read_record()
    except RequestError:
        return RunRecord()


def _curve(run: RunFolder) -> list[dict[str, Any]]:
    """Loss and scores by step; of a long run, evenly chosen losses and all scores."""
    points: dict[int, dict[str, Any]] = {}
    for line in run.read_metrics():
        step = line.get("step")
        if not isinstance(step, int):
            continue
        point = points.setdefault(step, {"step": step})
        for name in ("loss", "dev_wer", "canary_wer"):
            # Scores of other strengths have keys of their own.
            if isinstance(line.get(name), int | float) and name not in point:
                point[name] = line[name]
    ordered = [points[step] for step in sorted(points)]
    every = max(-(-len(ordered) // _MAX_POINTS), 1)
    kept = [p for index, p in enumerate(ordered) if index % every == 0 or "dev_wer" in p]
    return [{"loss": None, "dev_wer": None, "canary_wer": None} | point for point in kept]


def _diff(scored: ScoredUtterance | None, normalizer: Normalizer) -> list[dict[str, str]]:
    if scored is None:
        return []
    return [
        {"op": token.kind, "ref": token.reference, "hyp": token.hypothesis}
        for token in align(scored.reference, scored.hypothesis, normalizer)
    ]
