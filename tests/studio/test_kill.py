"""Killed at any write, the studio loses no answered recording and no answered correction."""

import http.client
import json
import multiprocessing
import os
import random
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tests.studio.running_studio import TOKEN, LevelsWorker, Page, speech, wav

from moonshine_tune.studio.project import open_project
from moonshine_tune.studio.serve import serve_project
from moonshine_tune.studio.server import Studio

pytestmark = pytest.mark.skipif(
    sys.platform == "darwin", reason="a fork of a process with frameworks is not safe there"
)

# A recording makes two files, a correction writes two manifests, and opening a folder one file.
_MOMENTS = sorted(random.Random(7).sample(range(2, 34), 10))


def _serve(folder: Path, last: int, pipe: Connection) -> None:
    """Serve, and be killed at the n-th file that gets its name: before it, or right after."""
    count = 0
    replace = Path.replace

    def replace_or_die(self: Path, target: Any) -> Path:
        nonlocal count
        count += 1
        if count == last and last % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        moved = replace(self, target)
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.replace = replace_or_die  # type: ignore[method-assign, assignment]
    with open_project(folder, None) as project:
        studio = Studio(project, LevelsWorker(project.scratch / "log", lambda text: None))
        serve_project(studio, 0, TOKEN, lambda server, port: pipe.send(port), print)


def _work(page: Page, asked: dict[str, str], answered: dict[str, str]) -> None:
    """Record, correct and accept until the server is gone.

    Args:
        asked, answered: get the text of each clip, before and after the server has answered.
    """

    def label(identifier: str, text: str) -> None:
        asked[identifier] = text
        page.ask("POST", f"/api/clips/{identifier}", {"text": text, "accept": True})
        answered[identifier] = text

    texts = [f"sentence {number}" for number in range(8)]
    prompts = page.add_prompts(*texts)
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        asked[f"take-{number:08d}"] = text
        sent = wav(speech(1.1, seed=number))
        page.ask("POST", f"/api/takes?prompt={prompt}&take={number:08d}", sent)
        answered[f"take-{number:08d}"] = text
        label(f"take-{number:08d}", f"{text} corrected")
        label(f"clip-{number}", f"new {number}")


@pytest.mark.parametrize("moment", _MOMENTS)
def test_nothing_that_was_answered_is_lost(moment: int, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "long.wav").write_bytes(wav(speech(1.5)))
    rows = [{"id": f"clip-{n}", "audio": "long.wav", "text": f"old {n}"} for n in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "unlabelled.jsonl").write_text(text, encoding="utf-8")
    asked: dict[str, str] = {}
    answered: dict[str, str] = {}
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, moment, theirs))
    process.start()
    theirs.close()
    try:
        with pytest.raises((OSError, EOFError, http.client.HTTPException)):
            _work(Page(ours.recv()), asked, answered)
    finally:
        process.kill()
        process.join()
    with open_project(folder, None) as project:
        accepted = project.manifests["accepted"].rows
        unlabelled = project.manifests["unlabelled"].rows
        for identifier, text in answered.items():
            # The one that was not answered yet may have come to the disk.
            assert accepted[identifier].text in (text, asked[identifier])
        everything = [*accepted.values(), *unlabelled.values()]
        assert len({row.id for row in everything}) == len(everything)
        assert {f"clip-{n}" for n in range(8)} <= {row.id for row in everything}
        assert all(row.audio.is_file() for row in everything)
        recordings = set((folder / "recordings").glob("*"))
        assert recordings <= {row.audio for row in everything}
    leftovers = [path.name for path in folder.rglob("*") if ".partial-" in path.name]
    assert leftovers == [] and list((folder / ".studio").iterdir()) == []
