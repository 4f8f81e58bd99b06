"""A studio on a free port of this machine, asked over HTTP; its worker needs no model."""

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from moonshine_tune.studio.judgment import judge_take
from moonshine_tune.studio.model_worker import ModelWorker
from moonshine_tune.studio.project import open_project
from moonshine_tune.studio.serve import serve_project
from moonshine_tune.studio.server import Studio

TOKEN = "a-token-for-tests"
Samples = npt.NDArray[np.float64]


class LevelsWorker(ModelWorker):
    """Judges in this process, as far as no model is needed."""

    def ask(self, operation: str, **values: Any) -> Any:
        if operation == "warm_up":
            return {"device": None, "remark": ""}
        if operation == "try_models":
            return {"base": "one", "adapted": "two", "base_s": 0.1, "adapted_s": 0.1}
        judgment = judge_take(
            Path(values["path"]), values["prompt"], [], lambda: "no model", Path(values["out"])
        )
        return asdict(judgment) | {"confidence": None}


class Page:
    """Sends requests as the page does."""

    def __init__(self, port: int, token: str = TOKEN) -> None:
        self.port, self._token = port, token

    @property
    def own(self) -> dict[str, str]:
        """What a browser sends from the page itself."""
        return {
            "Cookie": f"moonshine-studio-{self.port}={self._token}",
            "Origin": f"http://127.0.0.1:{self.port}",
        }

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and content; `headers` replace those of the page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=900)
        try:
            named = self.own if headers is None else headers
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that must be good."""
        status, _, content = self.send(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def refusal(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and message of an answer that must not be good."""
        status, _, content = self.send(method, path, body)
        assert status >= 400, content
        return status, json.loads(content)["error"]["message"]

    def add_prompts(self, *texts: str) -> list[str]:
        """Ids of prompts, which are added."""
        self.ask("POST", "/api/prompts", {"source": "list", "text": "\n".join(texts)})
        prompts = self.ask("GET", "/api/prompts?limit=500")["prompts"]
        return [item["id"] for text in texts for item in prompts if item["text"] == text]


@contextmanager
def running_studio(folder: Path) -> Iterator[Page]:
    """A studio of a folder in a thread of its own."""
    ready, ended = threading.Event(), threading.Event()
    servers: list[Any] = []
    ports: list[int] = []

    def on_ready(server: Any, port: int) -> None:
        servers.append(server)
        ports.append(port)
        ready.set()

    def work() -> None:
        try:
            with open_project(folder, None) as project:
                studio = Studio(project, LevelsWorker(project.scratch / "log", lambda text: None))
                serve_project(studio, 0, TOKEN, on_ready, print)
        finally:
            ended.set()
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(60)
    assert not ended.is_set()
    try:
        yield Page(ports[0])
    finally:
        servers[0].should_exit = True
        thread.join(60)


def speech(seconds: float = 2.0, rate: int = 16_000, seed: int = 0) -> Samples:
    """Bursts of noise with pauses, as loud as speech."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * times), 0, 1) ** 2
    return 0.1 * envelope * rng.standard_normal(len(times)).clip(-3, 3)


def wav(samples: Samples, rate: int = 16_000) -> bytes:
    """A WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def wait_for_jobs(page: Page) -> list[Any]:
    """All jobs, when none runs."""
    while True:
        jobs: list[Any] = page.ask("GET", "/api/jobs")["jobs"]
        if all(job["state"] != "running" for job in jobs):
            return jobs
        time.sleep(0.1)
