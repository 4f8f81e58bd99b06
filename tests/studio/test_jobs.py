"""Long jobs are commands in processes of their own, and no end of one is the end of the page."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.studio.running_studio import running_studio, speech, wait_for_jobs, wav

from moonshine_tune.core.errors import MachineError, TuneError
from moonshine_tune.core.progress_file import VARIABLE, ProgressFile
from moonshine_tune.studio import job_queue, model_worker
from moonshine_tune.studio.job_queue import Job, Jobs
from moonshine_tune.studio.model_worker import ModelWorker

# Stands for `python -m moonshine_tune COMMAND … --json`.
_COMMAND = f"""#!{sys.executable}
import json, os, signal, sys, time
command, *rest = sys.argv[3:]
def report(**record):
    with open(os.environ["{VARIABLE}"], "a") as file:
        file.write(json.dumps(record) + "\\n")
if command == "train":
    report(step=0, transcripts=[["one two", "won too"]])
    if "--resume" not in rest:
        report(stage="training", done=3, total=12)
        def stop(*_):
            print("{{}}")
            sys.exit(130)
        signal.signal(signal.SIGINT, stop)
        while True:
            time.sleep(0.01)
    report(step=8, transcripts=[["one two", "one two"]])
if command == "wrong":
    print(json.dumps({{"error": {{"message": "no such thing", "where": "a.jsonl:3",
          "hint": "do this", "exit_code": 2}}}}))
    sys.exit(2)
if command == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
print("a line for people", file=sys.stderr)
print(json.dumps({{"answer": rest}}))
"""
# Stands for the worker.
_WORKER = f"""#!{sys.executable}
import json, os, signal, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["operation"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps({{"message": "working"}}))
    print(json.dumps({{"result": request}} if request["operation"] == "echo" else
          {{"error": {{"message": "cannot", "next": "do that"}}}}), flush=True)
"""


def _program(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    executable = _program(tmp_path / "command", _COMMAND)
    monkeypatch.setattr(job_queue.sys, "executable", executable)
    made = Jobs(tmp_path, lambda change: None)
    yield made
    made.close()


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def _start(jobs: Jobs, *words: str, kind: str = "evaluate") -> Job:
    def work(job: Job) -> Any:
        return jobs.command(job, words, "working")

    return jobs.start(Job(kind), work, lane="models")


def test_a_command_ends_with_its_document_or_in_its_own_words(jobs: Jobs) -> None:
    done, wrong, killed = _start(jobs, "ok", "a"), _start(jobs, "wrong"), _start(jobs, "killed")
    _until(lambda: killed.state != "running")
    assert done.state == "done" and done.result == {"answer": ["a", "--json"], "exit_code": 0}
    assert wrong.error == {"message": "a.jsonl:3: no such thing", "next": "do this"}
    assert killed.error is not None and "SIGKILL" in killed.error["message"]
    assert "memory" in killed.error["message"]


def test_a_training_is_paused_and_goes_on(jobs: Jobs) -> None:
    job = _start(jobs, "train", kind="train")
    _until(lambda: job.progress["done"] == 3)
    assert job.progress["total"] == 12 and job.progress["text"] == "training"
    jobs.interrupt(job, "pause")
    _until(lambda: job.state != "running")
    assert job.state == "paused"
    job.state = "running"
    jobs.start(job, lambda job: jobs.command(job, ["train", "--resume"], "go on"), lane="models")
    _until(lambda: job.state != "running")
    assert job.state == "done"
    assert [step["text"] for step in job.steps["one two"]] == ["won too", "won too", "one two"]


def test_the_end_of_the_studio_lets_jobs_save(jobs: Jobs) -> None:
    running, waiting = _start(jobs, "train", kind="train"), _start(jobs, "ok")
    _until(lambda: running.progress["done"] == 3)
    assert jobs.are_running
    jobs.close()
    assert running.state == "stopped" and waiting.result is None
    with pytest.raises(TuneError, match="ending"):
        _start(jobs, "ok")


def test_a_dead_worker_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = _program(tmp_path / "worker", _WORKER)
    monkeypatch.setattr(model_worker.sys, "executable", executable)
    messages: list[str] = []
    worker = ModelWorker(tmp_path / "log", messages.append)
    try:
        assert worker.ask("echo", a=1) == {"operation": "echo", "a": 1}
        with pytest.raises(MachineError, match="killed by SIGKILL") as dead:
            worker.ask("die")
        assert "try again" in (dead.value.hint or "")
        assert worker.ask("echo", a=2)["a"] == 2
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        _until(lambda: worker._process is None or worker._process.poll() is not None)
        assert worker.ask("echo", a=3)["a"] == 3
        with pytest.raises(TuneError, match="cannot") as refused:
            worker.ask("other")
        assert refused.value.hint == "do that" and messages[0] == "working"
    finally:
        worker.close()


def test_progress_in_a_file_is_what_a_job_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(ProgressFile.of_environment()) is not ProgressFile
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress"))
    progress = ProgressFile.of_environment()
    progress.say("hello")
    with progress.stage("training", 2) as stage:
        stage.advance()
        stage.advance()
    progress.figures(2, {"loss": 0.5})
    progress.transcripts([("a", "b")])
    lines = (tmp_path / "progress").read_text(encoding="utf-8").splitlines()
    assert lines[0] == '{"message": "hello"}'
    assert lines[-3:] == [
        '{"stage": "training", "done": 2, "total": 2}',
        '{"step": 2, "values": {"loss": 0.5}}',
        '{"step": 2, "transcripts": [["a", "b"]]}',
    ]
    # A file that cannot be written is no reason to end a training.
    ProgressFile(tmp_path / "gone" / "progress").say("hello")


def test_the_page_stays_when_a_job_fails(tmp_path: Path) -> None:
    with running_studio(tmp_path / "project") as page:
        assert page.refusal("POST", "/api/jobs", {"kind": "wrong"})[0] == 400
        assert page.refusal("POST", "/api/jobs", {"kind": "export", "run": "../x"})[0] == 404
        wrong = {"kind": "train", "settings": {"--out": "/tmp"}}
        assert page.refusal("POST", "/api/jobs", wrong)[0] == 400
        job = page.ask("POST", "/api/jobs", {"kind": "plan_training"})["job"]
        (ended,) = wait_for_jobs(page)
        assert ended["id"] == job["id"] and ended["state"] == "failed"
        assert "too few" in ended["error"]["message"]
        assert page.refusal("POST", f"/api/jobs/{job['id']}/pause")[0] == 400
        assert page.refusal("POST", f"/api/jobs/{job['id']}/dance")[0] == 404
        assert page.refusal("POST", "/api/jobs/nothing/stop")[0] == 404


def test_changes_are_sent_to_the_page(tmp_path: Path) -> None:
    import http.client

    with running_studio(tmp_path / "project") as page:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
        connection.request("GET", "/api/events", headers=page.own)
        stream = connection.getresponse()
        assert stream.readline() == b": connected\n"
        (prompt,) = page.add_prompts("one two")
        page.ask("POST", f"/api/takes?prompt={prompt}", wav(speech()))
        lines = []
        while b'"clip"' not in (line := stream.readline()):
            lines.append(line)
        assert any(b'data: {"project"' in line for line in lines)
        connection.close()


def test_a_file_that_was_not_transcribed_is_tried_at_the_next_start(tmp_path: Path) -> None:
    from moonshine_tune.runs.records import StudioRecord

    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "a.wav").write_bytes(wav(speech()))
    record = StudioRecord(imports=["unlabelled/a.wav", "../outside.wav", "unlabelled/gone.wav"])
    record.write(tmp_path / "studio.json")
    with running_studio(tmp_path) as page:
        jobs = page.ask("GET", "/api/jobs")["jobs"]
        assert [job["kind"] for job in jobs] == ["import"]
        page.ask("POST", f"/api/jobs/{jobs[0]['id']}/stop")
        assert wait_for_jobs(page)[0]["state"] in ("stopped", "failed")
    assert StudioRecord.read(tmp_path / "studio.json").imports == []
