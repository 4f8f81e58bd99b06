"""The long jobs of a project, each as command lines of this program."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.files import sha256_of, write_text_atomic
from moonshine_tune.core.json_text import parse_json_object
from moonshine_tune.core.names import name_problem
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import HYPOTHESIS
from moonshine_tune.registry.catalog import lookup_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import SplitRecord
from moonshine_tune.runs.split_record import SPLIT_FILE
from moonshine_tune.runs.summary import read_run
from moonshine_tune.studio.job_queue import Job, Jobs, JobStoppedError, Work
from moonshine_tune.studio.labeling import WORDS, Labeling
from moonshine_tune.studio.project import ACCEPTED, TAKE, UNLABELLED, Project
from moonshine_tune.studio.results import Results

MODELS_LANE, FILES_LANE = "models", "files"
IMPORT = "import"
_GIB = 1 << 30
_FEWEST_CLIPS = 3
_PROPOSED = 20
# Recordings that one command transcribes: a command line has a length.
_MOST_FILES = 200
# After these no training of a learning curve begins; the same job again goes on.
_CURVE_MINUTES = 30
_SETTING = re.compile(r"[a-z_.]{1,60}")


class Tasks:
    """Starts the jobs that the page asks for."""

    def __init__(self, project: Project, jobs: Jobs, clips: Labeling, results: Results) -> None:
        self._project, self._jobs, self._clips = project, jobs, clips
        self._results = results
        # How each training of this page starts.
        self._trainings: dict[str, Work] = {}
        # The file of each import that waits.
        self._imports: dict[str, Path] = {}

    def start(self, request: Mapping[str, Any]) -> Job:
        """Start the job of a request.

        Raises:
            RequestError: no such kind or run, or another job holds what it needs.
        """
        with self._project.lock:
            return self._start(request)

    def _start(self, request: Mapping[str, Any]) -> Job:
        kind = request.get("kind")
        if kind == "plan_training":
            return self._jobs.start(
                Job(kind), lambda job: self._plan_training(job, request), lane=FILES_LANE
            )
        if kind == "train":
            settings = _settings(request)
            job = Job(kind, run=self._new_name("runs", "run"))
            self._trainings[job.id] = lambda job: self._train(job, request, settings)
            return self._jobs.start(job, self._trainings[job.id], lane=MODELS_LANE)
        if kind == "next":
            return self.propose(str(request.get("terms") or ""))
        work = {
            "resume": self._resume,
            "evaluate": self._evaluate,
            "export": self._export,
            "package": self._package,
            "curve": self._curve,
        }.get(str(kind))
        if work is None:
            raise RequestError(f"no job is called {str(kind)[:40]!r}", hint="load the page again")
        run = str(request.get("run") or "")
        self._results.run_path(run)
        return self._jobs.start(
            Job(str(kind), run=run), lambda job: work(job, request), lane=MODELS_LANE
        )

    def resume(self, job: Job) -> None:
        """Go on with a training that was paused or stopped.

        Raises:
            RequestError: the job is no training, or runs.
        """
        if job.kind not in ("train", "resume") or job.state not in ("paused", "stopped", "failed"):
            raise RequestError(f"this job is {job.state} and cannot go on", hint="start it again")
        job.state, job.error, job.result = "running", None, None
        self._jobs.start(job, lambda job: self._resume(job, {}), lane=MODELS_LANE)

    def interrupt(self, job: Job, wanted: str) -> None:
        """Ask a job to save and end.

        Args:
            wanted: `pause` or `stop`.

        Raises:
            RequestError: it has ended, or cannot be paused.
        """
        if job.state == "paused" and wanted == "stop":
            self._jobs.abandon(job)
            return
        if job.state != "running":
            raise RequestError(f"this job is {job.state}", hint="load the page again")
        if wanted == "pause" and job.kind not in ("train", "resume"):
            raise RequestError("only a training can be paused", hint="stop it instead")
        waiting = self._imports.pop(job.id, None)
        if waiting is not None:
            self._forget_imports([waiting])
        self._jobs.interrupt(job, wanted)

    # --- prompts and imports

    def propose(self, terms: str) -> Job:
        """Add sentences that teach most to the prompts.

        Args:
            terms: one per line, which need recordings.
        """
        return self._jobs.start(Job("next"), lambda job: self._propose(job, terms), lane=FILES_LANE)

    def _propose(self, job: Job, terms: str) -> dict[str, Any]:
        model = lookup_model(self._project.record.model)
        words: list[str | Path] = ["data", "next", "--count", str(_PROPOSED)]
        words += ["--language", model.language if model else "en"]
        if terms.strip():
            path = self._project.scratch / f"{job.id}.terms"
            write_text_atomic(path, terms)
            words += ["--terms", path]
        rows = self._project.manifests[ACCEPTED].rows.values()
        if rows:
            words += ["--recorded", self._project.manifests[ACCEPTED].path]
        if any(row.extra.get(WORDS) for row in rows):
            words += ["--transcripts", self._project.manifests[ACCEPTED].path]
        for folder in self._results.adapted_evaluations():
            words += ["--evaluation", folder]
        document = self._jobs.command(job, words, "comparing sentences")
        reasons = {item["text"]: "; ".join(item["why"]) for item in document["sentences"]}
        added = self._project.add_prompts(reasons, reasons)
        return {"added": added, "remarks": document["remarks"]}

    def add_recording(self, source: Path, path: Path) -> Job:
        """Move a complete file into the project folder, and transcribe it into clips to label.

        Args:
            path: where it is kept; one of the same name gets a number.
        """
        project = self._project
        with project.lock:
            target, number = path, 1
            while target.exists():
                number += 1
                target = path.with_stem(f"{path.stem}-{number}")
            # First: a file that nothing names would never be transcribed.
            relative = str(target.relative_to(project.folder))
            project.update(imports=[*project.record.imports, relative])
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
        return self._start_import(target)

    def continue_imports(self) -> None:
        """Start what an ended studio did not finish, and transcribe recovered recordings."""
        project = self._project
        for row in project.manifests[UNLABELLED].rows.values():
            if row.id.startswith(TAKE) and HYPOTHESIS not in row.extra and row.audio.is_file():
                self._start_import(row.audio)
        for name in project.record.imports:
            path = (project.folder / name).resolve()
            if path.is_file() and path.is_relative_to(project.folder):
                self._start_import(path)
            else:
                self._forget_imports([project.folder / name])

    def _start_import(self, path: Path) -> Job:
        job = Job(IMPORT)
        self._imports[job.id] = path
        return self._jobs.start(job, self._import, lane=FILES_LANE)

    def _import(self, job: Job) -> dict[str, Any]:
        """Transcribe a file and all that wait: starting a process takes longer than a clip."""
        jobs = [job, *self._jobs.take_waiting(FILES_LANE, IMPORT, _MOST_FILES)]
        paths = {item.id: path for item in jobs if (path := self._imports.pop(item.id, None))}
        if job.id not in paths:
            raise JobStoppedError
        try:
            results = self._transcribe(job, list(paths.values()))
        except Exception as error:
            if not isinstance(error, MachineError):
                # A machine may do it at the next start; what is wrong stays wrong.
                self._forget_imports(list(paths.values()))
            for item in jobs[1:]:
                self._jobs.settle(item, error)
            raise
        for item in jobs[1:]:
            stopped = JobStoppedError() if item.id not in paths else results[paths[item.id]]
            self._jobs.settle(item, stopped)
        own = results[paths[job.id]]
        if isinstance(own, Exception):
            raise own
        return own

    def _transcribe(
        self, job: Job, paths: Sequence[Path]
    ) -> dict[Path, dict[str, Any] | RequestError]:
        """What became of each file: how many clips, or why it cannot be read."""
        out = self._project.scratch / f"{job.id}.jsonl"
        words: list[str | Path] = ["transcribe", *paths, "--words", "--format", "jsonl"]
        words += ["--model", self._project.record.model, "--out", out]
        document = self._jobs.command(job, words, "transcribing")
        lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
        rows = [parse_json_object(line) for line in lines]
        self._clips.add_transcribed(rows)
        self._forget_imports(paths)
        counts = Counter(Path(row["audio"]) for row in rows)
        reasons = {Path(item["recording"]): item["reason"] for item in document.get("failed", [])}
        return {
            path: RequestError(
                f"{path.name}: {reasons[path]}",
                hint="convert it and drop it again: ffmpeg -i OLD -ac 1 -ar 16000 NEW.wav",
            )
            if path in reasons
            else {"clips": counts[path]}
            for path in paths
        }

    def _forget_imports(self, paths: Sequence[Path]) -> None:
        project = self._project
        done = {str(path.relative_to(project.folder)) for path in paths
                if path.is_relative_to(project.folder)}  # fmt: skip
        with project.lock:
            left = [name for name in project.record.imports if name not in done]
            project.update(imports=left)

    # --- training

    def _split(self, job: Job) -> Path:
        """The folder of train, dev and test of the accepted clips as they are now."""
        manifest = self._project.manifests[ACCEPTED]
        with_text = [row for row in manifest.rows.values() if row.text]
        if len(with_text) < _FEWEST_CLIPS:
            raise RequestError(
                f"{len(with_text)} accepted clips are too few to train on",
                hint="record or label more: twenty minutes are a good start",
            )
        # An earlier split stays: runs and their scores are of its manifests.
        data, digest = self._project.folder / "data", sha256_of(manifest.path)
        for record in sorted(data.glob(f"*/{SPLIT_FILE}")):
            if SplitRecord.read(record).manifest_sha256 == digest:
                return record.parent
        out = data / self._new_name("data", "split")
        self._jobs.command(job, ["data", "split", manifest.path, "--out", out], "splitting")
        return out

    def _plan_training(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any]:
        split = self._split(job)
        sides = SplitRecord.read(split / SPLIT_FILE).sides
        model = self._project.record.model
        words: list[str | Path] = ["estimate", "--model", model]
        if request.get("preset"):
            words += ["--preset", str(request["preset"])]
        words += ["--set", f"data.train={split / 'train.jsonl'}"]
        if "dev" in sides:
            words += ["--set", f"data.dev={split / 'dev.jsonl'}"]
        estimate = self._jobs.command(job, words, "estimating memory")
        preset = estimate["preset"]
        peak, budget = estimate["peak_bytes"] / _GIB, estimate["budget_bytes"] / _GIB
        verdict = "fits" if estimate["fits"] else "does not fit"
        reason = (
            f"{preset} is the preset of {model}; its peak of {peak:.1f} GiB {verdict} "
            f"{budget:.1f} GiB: {estimate['budget_reason']}"
        )
        if not estimate["fits"]:
            reason += "; settings are changed until it fits (--fit)"
        counts = {name: side.utterances for name, side in sides.items()}
        command = self._train_words("NAME", split, request, {})
        return {
            "preset": preset,
            "reason": reason,
            "estimate": {
                "memory_gib": round(peak, 2),
                "fits": estimate["fits"],
                "time_s": self._expected_seconds(model),
                "device": estimate["device"],
            },
            "data": {"train": 0, "dev": 0, "test": 0}
            | counts
            | {"seconds": round(sum(side.seconds or 0.0 for side in sides.values()), 1)},
            "command": "moonshine-tune " + " ".join(quoted(word) for word in command),
        }

    def _expected_seconds(self, model: str) -> float | None:
        """Seconds that the last training of this model took; None before the first one."""
        for summary in self._results.summaries():
            if summary.train_seconds and summary.model == model and summary.ended:
                return summary.train_seconds
        return None

    def _train_words(
        self, name: str, split: Path, request: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> list[str | Path]:
        words: list[str | Path] = ["train", "--train", split / "train.jsonl"]
        if (split / "dev.jsonl").is_file():
            words += ["--dev", split / "dev.jsonl"]
        words += ["--model", self._project.record.model]
        if preset := request.get("preset"):
            words += ["--preset", str(preset)]
        for key, value in settings.items():
            words += ["--set", f"{key}={value}"]
        return [*words, "--fit", "--out", self._project.folder / "runs" / name]

    def _train(
        self, job: Job, request: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        split = self._split(job)
        words = self._train_words(str(job.run), split, request, settings)
        return self._trained(job, self._jobs.command(job, words, "preparing"))

    def _resume(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any]:
        del request
        if job.id in self._trainings and not self._results.has_run(str(job.run)):
            # It was paused before there was anything to save.
            return self._trainings[job.id](job)  # type: ignore[no-any-return]
        out = self._results.run_path(str(job.run))
        if (summary := read_run(out)).ended:
            return self._trained(job, {"verdict": summary.verdict})
        return self._trained(
            job, self._jobs.command(job, ["train", "--resume", "--out", out], "preparing")
        )

    def _trained(self, job: Job, document: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a training, with the scores on held-out clips."""
        result = {"verdict": document.get("verdict", ""), "run": job.run}
        try:
            result["evaluation"] = self._evaluate(job, {})
        except RequestError as error:
            result["evaluation"] = {"remark": str(error)}
        return result

    def _evaluate(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any]:
        """Score the base and the adapted model on clips that the run did not train on."""
        del request
        run = self._results.run_path(str(job.run))
        manifest = self._results.held_out(run)
        out = self._results.evaluation_folder(str(job.run))
        for side in ("base", "adapted"):
            (out / side).mkdir(parents=True, exist_ok=True)
        model = str(RunFolder.open(run).read_record().settings.get("model", RunSettings().model))
        base = self._jobs.command(
            job,
            ["evaluate", "--model", model, "--manifest", manifest, "--out", out / "base"],
            "scoring the base",
        )
        adapted = self._jobs.command(
            job,
            ["evaluate", "--adapter", run, "--manifest", manifest, "--compare", out / "base",
             "--out", out / "adapted"],
            "scoring the adapter",
        )  # fmt: skip
        return {"base_wer": base.get("wer"), "wer": adapted.get("wer"), "manifest": manifest.name}

    # --- what comes after

    def _export(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any]:
        del request
        name = self._new_name("exported", str(job.run))
        out = self._project.folder / "exported" / name
        run = self._results.run_path(str(job.run))
        document = self._jobs.command(job, ["export", "--run", run, "--out", out], "exporting")
        parity = document.get("parity", {})
        reasons = [parity.get("verdict"), parity.get("judged_by"), parity.get("advice")]
        return {
            "name": name,
            "parity": {
                "passed": parity.get("passed"),
                "verdict": parity.get("verdict"),
                "summary": "; ".join(filter(None, reasons)),
            },
            "download": f"/api/exports/{name}/download",
        }

    def _package(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any]:
        run = self._results.run_path(str(job.run))
        exported = self._results.exported_of(str(job.run))
        if exported is None:
            raise RequestError("this run is not exported yet", hint="export it first")
        name = self._new_name("packages", str(job.run), ending=".tar.gz")
        words: list[str | Path] = ["package", "--run", run, "--runtime-dir", exported]
        evaluation = self._results.evaluation_folder(str(job.run))
        if (evaluation / "adapted" / "result.json").is_file():
            words += ["--evaluation", evaluation / "adapted"]
            words += ["--base-evaluation", evaluation / "base"]
        if request.get("allow_failed_parity") is True:
            words.append("--allow-failed-parity")
        out = self._project.folder / "packages" / f"{name}.tar.gz"
        out.parent.mkdir(exist_ok=True)
        self._jobs.command(job, [*words, "--out", out], "packing")
        return {"name": name, "download": f"/api/packages/{name}/download"}

    def _curve(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any]:
        run = self._results.run_path(str(job.run))
        model = RunFolder.open(run).read_record().settings.get("model", RunSettings().model)
        out = self._project.folder / "curves" / str(job.run)
        words: list[str | Path] = ["curve", "--model", str(model), "--out", out]
        words += ["--budget", str(_CURVE_MINUTES)]
        for name, path in self._results.training_manifests(run).items():
            words += [f"--{name}", path]
        for key, value in _settings(request).items():
            words += ["--set", f"{key}={value}"]
        document = self._jobs.command(job, words, "training on parts")
        points = [
            {name: point.get(name) for name in ("recordings", "wer")}
            for point in document.get("points", [])
        ]
        sentences = document.get("sentences", [])
        return {
            "summary": " ".join(sentences),
            "sentences": sentences,
            "points": points,
            "verdict": document.get("verdict"),
            "needed": None,
        }

    def _new_name(self, folder: str, stem: str, *, ending: str = "") -> str:
        """A name that nothing in a folder of the project has: `run-1`, `run-2`, …"""
        if problem := name_problem(stem):
            raise RequestError(f"the name {stem[:80]!r} {problem}", hint="choose another name")
        taken = {job.run for job in self._jobs.listed()} if folder == "runs" else set()
        parent = self._project.folder / folder
        number = 1
        while True:
            # Exports and packages are named as their run.
            name = f"{stem}-{number}" if folder in ("runs", "data") or number > 1 else stem
            if name not in taken and not (parent / f"{name}{ending}").exists():
                return name
            number += 1


def _settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training by their dotted names.

    Raises:
        RequestError: not a name or a plain value.
    """
    settings = request.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise RequestError("settings are an object of names and values")
    for key, value in settings.items():
        if not _SETTING.fullmatch(str(key)) or not isinstance(value, bool | int | float | str):
            raise RequestError(
                f"setting {str(key)[:60]!r} is not a name with a plain value",
                hint="all settings: moonshine-tune settings",
            )
    steps = request.get("max_steps")
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise RequestError(f"{steps!r} is not a number of steps")
        every = {"select.every_steps": max(steps // 2, 1)}
        return {"train.steps": steps} | every | dict(settings)
    return dict(settings)
