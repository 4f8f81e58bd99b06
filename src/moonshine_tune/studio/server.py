"""The routes of the studio. Each reads its request, asks one part of the project, and answers."""

import io
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import soundfile
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from moonshine_tune.audio.io import AUDIO_ENDINGS, audio_info, load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.bounded_files import utf8_text
from moonshine_tune.core.errors import MachineError, RequestError, TuneError
from moonshine_tune.core.hardware import total_memory_mb
from moonshine_tune.core.names import short_label
from moonshine_tune.corpus.manifest import Utterance, seconds_of
from moonshine_tune.registry.catalog import MODELS, find_model
from moonshine_tune.report.environment import palette
from moonshine_tune.studio.events import Events
from moonshine_tune.studio.http import (
    EXCEPTION_HANDLERS,
    flag_field,
    json_body,
    number_query,
    ranged,
    route,
    text_field,
)
from moonshine_tune.studio.job_queue import Job, Jobs
from moonshine_tune.studio.labeling import Labeling, NotFoundError, short_name
from moonshine_tune.studio.model_worker import ModelWorker
from moonshine_tune.studio.project import ACCEPTED, UNLABELLED, Project
from moonshine_tune.studio.results import Results
from moonshine_tune.studio.security import (
    JSON_BYTES,
    REPORT_POLICY,
    TAKE_BYTES,
    UPLOAD_BYTES,
    Guard,
)
from moonshine_tune.studio.takes import Takes
from moonshine_tune.studio.tasks import Tasks

_PAGES = Path(__file__).parent / "pages"
# What every browser plays; others are sent as WAV.
_PLAYED = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}
_MAX_PLAYED_S = 600.0
_MAX_LISTED = 500
_SPARE_BYTES = 200_000_000


class Studio:
    """A project with everything that works on it."""

    def __init__(self, project: Project, worker: ModelWorker | None = None) -> None:
        self.project = project
        self.events = Events()
        # Where the model is, and why it cannot be opened.
        self.device: str | None = None
        self.model_remark = ""
        self.worker = worker or ModelWorker(
            project.scratch / "worker.log", lambda text: self.events.publish({"model": text})
        )
        self.jobs = Jobs(project.scratch, self.events.publish)
        self.clips = Labeling(project)
        self.takes = Takes(project, self.worker)
        self.results = Results(project, self.jobs)
        self.tasks = Tasks(project, self.jobs, self.clips, self.results)

    def warm_up_soon(self) -> None:
        """Open the model, so that the first recording does not wait for it."""
        # A daemon: the end of the studio does not wait for a model.
        threading.Thread(target=self._warm_up, daemon=True).start()

    def _warm_up(self) -> None:
        with suppress(TuneError):
            answer = self.worker.ask("warm_up", model=self.project.record.model)
            self.device, self.model_remark = answer["device"], answer["remark"]
            self.events.publish({"project": self.describe()})

    def close(self) -> None:
        """Let running jobs save, and end the worker."""
        self.events.close()
        self.jobs.close()
        self.worker.close()

    def describe(self) -> dict[str, Any]:
        """The project as the page shows it."""
        project, record = self.project, self.project.record
        accepted = project.manifests[ACCEPTED].rows.values()
        prompts = project.prompts()
        return {
            "folder": str(project.folder),
            "name": project.folder.name,
            "model": record.model,
            "speaker": record.speaker,
            "session": record.session,
            "keep_original": record.keep_original,
            "manifest": record.manifest,
            "counts": {
                "prompts": len(prompts),
                "prompts_left": sum(not item.takes for item in prompts),
                "accepted": len(accepted),
                "accepted_s": round(seconds_of(list(accepted)), 1),
                "unlabelled": len(project.manifests[UNLABELLED].rows),
                "runs": self.results.count,
            },
            "machine": {
                "device": self.device,
                "memory_gib": round(total_memory_mb() * 1e6 / (1 << 30), 1),
            },
            "models": [record.name for record in MODELS],
            "remarks": [*project.remarks, *filter(None, [self.model_remark])],
        }


def make_app(studio: Studio, *, port: int, token: str) -> Starlette:
    """The application.

    Args:
        token: what a page must have.
    """
    routes = _Routes(studio)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        studio.tasks.continue_imports()
        studio.warm_up_soon()
        yield

    return Starlette(
        routes=routes.table(),
        lifespan=lifespan,
        middleware=[Middleware(Guard, port=port, token=token, limit_of=_limit_of)],
        exception_handlers=EXCEPTION_HANDLERS,
    )


def _limit_of(method: str, path: str) -> int:
    """Bytes that the body of a request may have."""
    if method == "POST" and path == "/api/uploads":
        return UPLOAD_BYTES
    if method == "POST" and path in ("/api/takes", "/api/try"):
        return TAKE_BYTES
    return JSON_BYTES


class _Routes:
    def __init__(self, studio: Studio) -> None:
        self._studio, self._project = studio, studio.project

    def table(self) -> list[Route | Mount]:
        """Method and path of every answer."""
        return [
            Route("/", self.page),
            Route("/static/palette.css", self.palette),
            Mount("/static", StaticFiles(directory=_PAGES / "static", check_dir=False)),
            route("GET", "/api/project", self.describe),
            route("PATCH", "/api/project", self.change_project),
            route("GET", "/api/prompts", self.prompts),
            route("POST", "/api/prompts", self.add_prompts),
            route("POST", "/api/prompts/{id}/skip", self.skip_prompt),
            route("DELETE", "/api/prompts/{id}", self.remove_prompt),
            route("POST", "/api/takes", self.add_take),
            route("GET", "/api/clips", self.list_clips),
            route("POST", "/api/clips/batch", self.change_clips),
            route("GET", "/api/clips/{id:path}/audio", self.clip_audio),
            route("POST", "/api/clips/{id:path}", self.label_clip),
            route("DELETE", "/api/clips/{id:path}", self.delete_clip),
            route("POST", "/api/undo", self.undo),
            route("GET", "/api/effort", self.effort),
            route("POST", "/api/uploads", self.upload),
            route("GET", "/api/jobs", self.list_jobs),
            route("POST", "/api/jobs", self.start_job),
            route("GET", "/api/jobs/{id}", self.job),
            route("POST", "/api/jobs/{id}/{action}", self.change_job),
            route("GET", "/api/events", self.send_events),
            route("GET", "/api/runs", self.runs),
            route("GET", "/api/runs/{name:path}/side-by-side", self.side_by_side),
            route("GET", "/api/runs/{name:path}/clips/{id:path}/audio", self.run_audio),
            route("GET", "/api/runs/{name:path}", self.run),
            route("GET", "/runs/{name:path}/report.html", self.report),
            route("POST", "/api/try", self.try_models),
            route("GET", "/api/exports/{name}/download", self.download_export),
            route("GET", "/api/packages/{name}/download", self.download_package),
        ]

    # --- page and project

    async def palette(self, request: Request) -> Response:
        """The colors that the page shares with the report."""
        del request
        return Response(palette(), media_type="text/css")

    async def page(self, request: Request) -> Response:
        """The one page."""
        del request
        path = _PAGES / "index.html"
        if not path.is_file():
            raise HTTPException(404, "the page is not part of this installation")
        return FileResponse(path, media_type="text/html")

    async def describe(self, request: Request) -> Any:
        """The project."""
        del request
        return await run_in_threadpool(self._studio.describe)

    async def change_project(self, request: Request) -> Any:
        """Set model, speaker, session or keep_original."""
        body = await json_body(request)
        values: dict[str, Any] = {}
        for name in ("speaker", "session"):
            if name in body:
                values[name] = short_name(text_field(body, name))
        if "keep_original" in body:
            values["keep_original"] = flag_field(body, "keep_original")
        if "model" in body:
            values["model"] = _known_model(text_field(body, "model"))
        self._project.update(**values)
        if "model" in values:
            self._studio.warm_up_soon()
        return await self._changed_project()

    async def _changed_project(self) -> Any:
        project = await run_in_threadpool(self._studio.describe)
        self._studio.events.publish({"project": project})
        return project

    # --- prompts

    async def prompts(self, request: Request) -> Any:
        """Prompts, undone ones first."""
        limit = number_query(request, "limit", 50, _MAX_LISTED)
        prompts = await run_in_threadpool(self._project.prompts)
        return {"prompts": [asdict(item) for item in prompts[:limit]], "total": len(prompts)}

    async def add_prompts(self, request: Request) -> Any:
        """Add prompts of a list or a file, or propose some."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "text/plain" or request.query_params.get("source") == "file":
            return await self._add_lines(utf8_text(await request.body()))
        body = await json_body(request)
        source = body.get("source")
        if source in ("list", "file"):
            return await self._add_lines(text_field(body, "text"))
        if source == "next":
            terms = body.get("terms") or ""
            if isinstance(terms, list):
                terms = "\n".join(map(str, terms))
            return {"job": self._studio.tasks.propose(str(terms)).to_json()}
        raise RequestError(f"source {str(source)[:40]!r}", hint="one of: list, file, next")

    async def _add_lines(self, text: str) -> Any:
        added = await run_in_threadpool(self._project.add_prompts, text.splitlines())
        await self._changed_project()
        return {"added": added}

    async def skip_prompt(self, request: Request) -> Any:
        """Show a prompt after the others."""
        await run_in_threadpool(self._project.skip_prompt, request.path_params["id"])
        return {}

    async def remove_prompt(self, request: Request) -> Any:
        """Remove a prompt."""
        await run_in_threadpool(self._project.remove_prompt, request.path_params["id"])
        return await self._changed_project()

    # --- recordings

    async def add_take(self, request: Request) -> Any:
        """Judge a recording of a prompt, and keep it."""
        query = request.query_params
        path = await self._received(request, ".wav")
        try:
            answer = await run_in_threadpool(
                self._studio.takes.add,
                path,
                query.get("prompt", ""),
                query.get("take"),
                keep=query.get("keep") == "1",
            )
        finally:
            path.unlink(missing_ok=True)
        if answer["clip"] is not None:
            self._studio.events.publish({"clip": answer["clip"]})
        return answer

    async def try_models(self, request: Request) -> Any:
        """What the base and the adapted model write on a recording."""
        run = self._studio.results.run_path(request.query_params.get("run", ""))
        path = await self._received(request, ".wav")
        try:
            return await run_in_threadpool(
                self._studio.worker.ask, "try_models", run=str(run), path=str(path)
            )
        finally:
            path.unlink(missing_ok=True)

    async def upload(self, request: Request) -> Any:
        """Keep a dropped file, and transcribe it."""
        name = request.query_params.get("name", "")
        target = self._upload_target(name, request.query_params.get("path", ""))
        path = await self._received(request, target.suffix)
        try:
            job = await run_in_threadpool(self._studio.tasks.add_recording, path, target)
        finally:
            path.unlink(missing_ok=True)
        return {"job": job.to_json()}

    def _upload_target(self, name: str, folders: str) -> Path:
        """Where a dropped file is kept: below `unlabelled`, whatever it is called."""
        suffix = Path(name).suffix.lower()
        if suffix not in AUDIO_ENDINGS:
            raise RequestError(
                f"{name[:80]!r} is not a recording",
                hint=f"recordings end in {', '.join(sorted(AUDIO_ENDINGS))}; what has transcripts "
                "is imported on the command line: moonshine-tune data import",
            )
        parts = [label for part in Path(folders).parts if (label := short_label(part, ""))]
        folder = self._project.folder.joinpath("unlabelled", *parts[:8])
        target = folder / f"{short_label(Path(name).stem, 'recording')}{suffix}"
        if not target.resolve().is_relative_to(self._project.folder):
            raise RequestError("a link in the project leads out of it", where=folder)
        return target

    async def _received(self, request: Request, suffix: str) -> Path:
        """The body of a request in a file of the scratch folder."""
        stated = int(request.headers.get("content-length", "0"))
        free = shutil.disk_usage(self._project.folder).free
        if stated + _SPARE_BYTES > free:
            raise MachineError("the disk is full", hint="free some space, then send it again")
        path = self._project.scratch / f"{secrets.token_hex(8)}{suffix}"
        try:
            with path.open("wb") as file:
                async for block in request.stream():
                    await run_in_threadpool(file.write, block)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if not path.stat().st_size:
            path.unlink(missing_ok=True)
            raise RequestError("the recording is empty", hint="record it again")
        return path

    # --- clips

    async def list_clips(self, request: Request) -> Any:
        """A part of the clips."""
        state = request.query_params.get("state", UNLABELLED)
        offset = number_query(request, "offset", 0, 1_000_000_000)
        limit = number_query(request, "limit", 50, _MAX_LISTED)
        return await run_in_threadpool(self._studio.clips.listed, state, offset, limit)

    async def label_clip(self, request: Request) -> Any:
        """Set the text of a clip, and accept it."""
        body = await json_body(request)
        keystrokes = body.get("keystrokes")
        if keystrokes is not None and (
            isinstance(keystrokes, bool) or not isinstance(keystrokes, int)
        ):
            raise RequestError("keystrokes is a number")
        clip = await run_in_threadpool(
            lambda: self._studio.clips.label(
                request.path_params["id"],
                text_field(body, "text"),
                accept=body.get("accept") is True,
                keystrokes=keystrokes,
            )
        )
        self._studio.events.publish({"clip": clip})
        return {"clip": clip}

    async def change_clips(self, request: Request) -> Any:
        """Set speaker and session of many clips."""
        body = await json_body(request)
        identifiers = body.get("ids")
        if not isinstance(identifiers, list) or not all(isinstance(i, str) for i in identifiers):
            raise RequestError("ids is a list of clip ids")
        names = [text_field(body, name) if body.get(name) is not None else None
                 for name in ("speaker", "session")]  # fmt: skip
        clips = await run_in_threadpool(self._studio.clips.set_many, identifiers, *names)
        return {"clips": clips}

    async def delete_clip(self, request: Request) -> Any:
        """Move a clip to the deleted ones."""
        await run_in_threadpool(self._studio.clips.delete, request.path_params["id"])
        return await self._changed_project()

    async def undo(self, request: Request) -> Any:
        """Take the last change of clips back."""
        del request
        undone = await run_in_threadpool(self._project.undo)
        await self._changed_project()
        return {"undone": undone}

    async def effort(self, request: Request) -> Any:
        """Keystrokes against typing everything."""
        del request
        return await run_in_threadpool(self._studio.clips.effort)

    async def clip_audio(self, request: Request) -> Response:
        """The audio of a clip."""
        _, row = self._studio.clips.find(request.path_params["id"])
        return await self._audio(request, row)

    async def _audio(self, request: Request, row: Utterance) -> Response:
        """A file of the project as it is where a browser plays it, else its samples as WAV."""
        kind = _PLAYED.get(row.audio.suffix.lower())
        is_inside = row.audio.resolve().is_relative_to(self._project.folder)
        if kind and is_inside and row.start is None and row.end is None and row.audio.is_file():
            return FileResponse(row.audio, media_type=kind)
        data = await run_in_threadpool(_wav_of, row)
        return ranged(request, data, "audio/wav")

    # --- jobs

    async def list_jobs(self, request: Request) -> Any:
        """All jobs."""
        del request
        return {"jobs": [job.to_json() for job in self._studio.jobs.listed()]}

    async def start_job(self, request: Request) -> Any:
        """Start a job."""
        body = await json_body(request)
        job = await run_in_threadpool(self._studio.tasks.start, body)
        return {"job": job.to_json()}

    async def job(self, request: Request) -> Any:
        """One job."""
        return self._job(request).to_json()

    async def change_job(self, request: Request) -> Any:
        """Pause, resume or stop a job."""
        job, action = self._job(request), request.path_params["action"]
        if action == "resume":
            await run_in_threadpool(self._studio.tasks.resume, job)
        elif action in ("pause", "stop"):
            await run_in_threadpool(self._studio.tasks.interrupt, job, action)
        else:
            raise HTTPException(404, "there is no such action")
        return {"job": job.to_json()}

    def _job(self, request: Request) -> Job:
        job = self._studio.jobs.get(request.path_params["id"])
        if job is None:
            raise NotFoundError("no such job", hint="load the page again")
        return job

    async def send_events(self, request: Request) -> Response:
        """Changes as they happen."""
        del request
        return StreamingResponse(self._studio.events.stream(), media_type="text/event-stream")

    # --- runs

    async def runs(self, request: Request) -> Any:
        """All runs."""
        del request
        return await run_in_threadpool(self._studio.results.listed)

    async def run(self, request: Request) -> Any:
        """One run."""
        return await run_in_threadpool(self._studio.results.detail, request.path_params["name"])

    async def side_by_side(self, request: Request) -> Any:
        """Held-out clips with the transcripts of both models."""
        name = request.path_params["name"]
        return await run_in_threadpool(self._studio.results.side_by_side, name)

    async def run_audio(self, request: Request) -> Response:
        """The audio of a held-out clip."""
        name, identifier = request.path_params["name"], request.path_params["id"]
        row = await run_in_threadpool(self._studio.results.clip_of, name, identifier)
        return await self._audio(request, row)

    async def report(self, request: Request) -> Response:
        """The report of a run, made anew."""
        run = self._studio.results.run_path(request.path_params["name"])
        out = run / "report.html"
        done = await run_in_threadpool(
            subprocess.run,
            [sys.executable, "-m", "moonshine_tune", "report", str(run), "--json"],
            capture_output=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode or not out.is_file():
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise RequestError(" ".join(words[-2:]) or "the report was not written")
        return FileResponse(
            out, media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
        )

    async def download_export(self, request: Request) -> Response:
        """An exported folder as an archive."""
        name = request.path_params["name"]
        path = await run_in_threadpool(self._studio.results.exported_zip, name)
        return FileResponse(
            path, filename=f"{name}.zip", media_type="application/zip",
            background=BackgroundTask(path.unlink, missing_ok=True),
        )  # fmt: skip

    async def download_package(self, request: Request) -> Response:
        """The archive of a package."""
        path = self._studio.results.package(request.path_params["name"])
        return FileResponse(path, filename=path.name, media_type="application/gzip")


def _known_model(name: str) -> str:
    """A name of the catalog, a hub id or a folder.

    Raises:
        RequestError: a name that no model has.
    """
    if "/" not in name:
        find_model(name)
    return name


def _wav_of(row: Utterance) -> bytes:
    """The samples of a clip as WAV, its first ten minutes if it is longer."""
    start, end = row.start or 0.0, row.end
    if end is None:
        end = audio_info(row.audio).seconds
    row = replace(row, start=start, end=min(end, start + _MAX_PLAYED_S))
    buffer = io.BytesIO()
    soundfile.write(
        buffer, load_utterance(row).clip(-1.0, 1.0), SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16"
    )
    return buffer.getvalue()
