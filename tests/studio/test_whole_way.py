"""The whole way on the real tiny model, as the page asks for it: from prompts to a package."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.studio.running_studio import Page, wait_for_jobs, wav

from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.runs.summary import read_run
from moonshine_tune.studio.project import open_project
from moonshine_tune.studio.serve import serve_project
from moonshine_tune.studio.server import Studio

pytestmark = [pytest.mark.real_model, pytest.mark.shared_data]


def _clips(shared_data: Path, count: int) -> list[tuple[str, bytes]]:
    """Texts and recordings of AN4, of at least 1.5 s."""
    lines = (shared_data / "an4" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    chosen = [row for row in rows if row.get("duration", 0) >= 1.5][:count]
    return [
        (row["text"], wav(*soundfile.read(shared_data / "an4" / row["audio"]))) for row in chosen
    ]


def _done(page: Page, **request: Any) -> Any:
    """The result of a job that must be done."""
    started = page.ask("POST", "/api/jobs", request)["job"]
    wait_for_jobs(page)
    job = page.ask("GET", f"/api/jobs/{started['id']}")
    assert job["state"] == "done", job["error"]
    return job


@pytest.mark.slow
def test_from_prompts_to_a_package(tmp_path: Path, shared_data: Path, real_cache: Path) -> None:
    import threading

    del real_cache
    folder = tmp_path / "project"
    ready = threading.Event()
    started: list[Any] = []

    def serve() -> None:
        with open_project(folder, None) as project:
            serve_project(
                Studio(project), 0, "a-token-for-tests",
                lambda server, port: (started.extend((server, port)), ready.set()), print,
            )  # fmt: skip

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(120)
    server, port = started
    try:
        _walk(Page(port), folder, _clips(shared_data, 14))
    finally:
        server.should_exit = True
        thread.join(120)


def _walk(page: Page, folder: Path, clips: list[tuple[str, bytes]]) -> None:
    spoken, dropped = clips[:8], clips[8:]
    prompts = page.add_prompts(*(text for text, _ in spoken))
    for prompt, (_, sent) in zip(prompts, spoken, strict=True):
        answer = page.ask("POST", f"/api/takes?prompt={prompt}", sent)
        assert answer["verdict"] == "accepted" and answer["words"], answer
    # Another sentence, and silence.
    answer = page.ask("POST", f"/api/takes?prompt={prompts[0]}", spoken[3][1])
    assert answer["verdict"] == "refused"
    assert {item["name"] for item in answer["findings"]} <= {
        "doubtful_text", "words_not_said", "words_missing"
    }  # fmt: skip
    silence = wav(np.zeros(48_000), 48_000)
    answer = page.ask("POST", f"/api/takes?prompt={prompts[0]}", silence)
    assert [item["name"] for item in answer["findings"]] == ["silent"]

    for number, (_, sent) in enumerate(dropped):
        page.ask("POST", f"/api/uploads?name=clip%20{number}.wav", sent)
    assert {job["state"] for job in wait_for_jobs(page)} == {"done"}
    listed = page.ask("GET", "/api/clips?state=unlabelled")["clips"]
    assert len(listed) == len(dropped)
    confidences = [clip["confidence"] for clip in listed]
    assert confidences == sorted(confidences)
    for clip in listed:
        text = f"{clip['text']} corrected" if clip is listed[0] else clip["text"]
        page.ask("POST", f"/api/clips/{clip['id']}", {"text": text, "accept": True})
    assert len(read_manifest(folder / "manifest.jsonl")) == len(clips)

    plan = _done(page, kind="plan_training")["result"]
    assert plan["preset"] == "tiny" and plan["estimate"]["fits"]
    job = _done(page, kind="train", max_steps=2, settings={"data.replay": "none"})
    run = job["run"]
    assert read_run(folder / "runs" / run).status == "finished"
    detail = page.ask("GET", f"/api/runs/{run}")
    assert [point["step"] for point in detail["curve"]] == [0, 1, 2]
    assert detail["transcripts"][0]["steps"][0]["step"] == 0
    pairs = page.ask("GET", f"/api/runs/{run}/side-by-side")
    assert pairs and all(pair["base_diff"] for pair in pairs)
    assert page.send("GET", pairs[0]["audio"])[2][:4] in (b"fLaC", b"RIFF")
    tried = page.ask("POST", f"/api/try?run={run}", clips[0][1])
    assert tried["base"] and tried["adapted"] and tried["base_s"] > 0

    exported = _done(page, kind="export", run=run)["result"]
    archive = zipfile.ZipFile(io.BytesIO(page.send("GET", exported["download"])[2]))
    assert f"{exported['name']}/export.json" in archive.namelist()
    packed = _done(page, kind="package", run=run, allow_failed_parity=True)["result"]
    content = page.send("GET", packed["download"])[2]
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        assert any(name.endswith("package.json") for name in package.getnames())
    status, headers, content_bytes = page.send("GET", f"/runs/{run}/report.html")
    assert status == 200 and b"<html" in content_bytes
    assert headers["content-security-policy"].startswith("sandbox")
