"""Clips to label: accepted, corrected, deleted and taken back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.studio.running_studio import Page, running_studio, speech, wav

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.studio.project import open_project


def _row(name: str, text: str, confidence: float) -> dict[str, Any]:
    words = [{"text": text.split()[0], "start": 1.2, "end": 1.4, "confidence": confidence}]
    return {"id": name, "audio": "long.wav", "start": 1.0, "end": 2.5, "text": text,
            "duration": 1.5, "hypothesis": text, "confidence": confidence,
            "words": words}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with three clips to label."""
    (tmp_path / "long.wav").write_bytes(wav(speech(4.0)))
    rows = [_row("sure", "one two", 0.9), _row("unsure", "tree for", 0.2), _row("b", "five", 0.5)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "unlabelled.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def page(folder: Path) -> Iterator[Page]:
    with running_studio(folder) as started:
        yield started


def _ids(page: Page, state: str) -> list[str]:
    return [clip["id"] for clip in page.ask("GET", f"/api/clips?state={state}")["clips"]]


def test_the_least_sure_comes_first_and_enter_accepts(page: Page, folder: Path) -> None:
    listed = page.ask("GET", "/api/clips?state=unlabelled&limit=2")
    assert [clip["id"] for clip in listed["clips"]] == ["unsure", "b"] and listed["total"] == 3
    # Words are timed from the start of the clip, which is a span of a longer recording.
    assert listed["clips"][0]["words"][0]["start_s"] == 0.2
    status, headers, content = page.send("GET", listed["clips"][0]["audio"])
    assert (status, headers["content-type"]) == (200, "audio/wav")
    assert len(content) == 44 + 2 * 24_000
    page.ask("POST", "/api/clips/unsure", {"text": "three four", "accept": True, "keystrokes": 5})
    page.ask("POST", "/api/clips/b", {"text": "five", "accept": True, "keystrokes": 1})
    assert _ids(page, "unlabelled") == ["sure"] and _ids(page, "accepted") == ["b", "unsure"]
    effort = page.ask("GET", "/api/effort")
    assert effort == {
        "clips": 2, "keystrokes": 6, "typing_everything": 16, "saved_percent": 62.5
    }  # fmt: skip
    corrected, _ = read_manifest(folder / "manifest.jsonl").utterances
    assert corrected.text == "three four" and corrected.extra["hypothesis"] == "tree for"
    assert corrected.is_real


def test_everything_can_be_taken_back(page: Page) -> None:
    page.ask("POST", "/api/clips/batch", {"ids": ["sure", "b"], "speaker": "Anna"})
    page.ask("POST", "/api/clips/b", {"text": "five!", "accept": True, "keystrokes": 2})
    page.ask("DELETE", "/api/clips/sure")
    assert _ids(page, "unlabelled") == ["unsure"]
    assert page.refusal("GET", "/api/clips/sure/audio")[0] == 404
    undone = [page.ask("POST", "/api/undo")["undone"] for _ in range(4)]
    assert undone == ["deleted", "accepted", "set the speaker of 2 clips", None]
    clips = page.ask("GET", "/api/clips?state=unlabelled")["clips"]
    assert [(clip["text"], clip["speaker"]) for clip in clips] == [
        ("tree for", ""), ("five", ""), ("one two", "")
    ]  # fmt: skip
    assert page.ask("GET", "/api/effort")["clips"] == 0


def test_speaker_and_session_are_set_for_many(page: Page) -> None:
    body = {"ids": ["sure", "b", "b"], "speaker": "Anna  B", "session": "day 1"}
    clips = page.ask("POST", "/api/clips/batch", body)["clips"]
    assert [(clip["speaker"], clip["session"]) for clip in clips] == [("Anna B", "day 1")] * 2
    page.ask("POST", "/api/clips/batch", {"ids": ["b"], "speaker": ""})
    listed = page.ask("GET", "/api/clips?state=unlabelled")["clips"]
    assert [clip["speaker"] for clip in listed] == ["", "", "Anna B"]
    assert page.refusal("POST", "/api/clips/batch", {"ids": ["b", "c"], "speaker": "x"})[0] == 404
    assert page.refusal("POST", "/api/clips/b", {"text": " ", "accept": True})[0] == 400


def test_a_manifest_that_another_program_writes_is_read_again(page: Page, folder: Path) -> None:
    page.ask("POST", "/api/clips/b", {"text": "five", "accept": True})
    manifest = folder / "manifest.jsonl"
    line = json.dumps({"id": "own", "audio": "long.wav", "text": "mine"})
    manifest.write_text(manifest.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    page.ask("POST", "/api/clips/sure", {"text": "one two", "accept": True})
    assert [item.id for item in read_manifest(manifest).utterances] == ["b", "own", "sure"]


def test_a_folder_of_the_command_line_opens_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(speech()))
    line = json.dumps({"id": "a", "audio": "a.wav", "text": "one", "note": 3})
    (tmp_path / "mine.jsonl").write_text(line + "\n", encoding="utf-8")
    with open_project(tmp_path, None) as project:
        assert project.remarks == ["accepted clips are added to mine.jsonl"]
        assert list(project.manifests["accepted"].rows) == ["a"]
        assert not (tmp_path / "studio.json").exists()
    (tmp_path / "mine.jsonl").write_text(line + "\nnot json\n", encoding="utf-8")
    (tmp_path / "mine.jsonl").rename(tmp_path / "manifest.jsonl")
    with (
        pytest.raises(ProblemsError, match=r"manifest.jsonl:2: not JSON"),
        open_project(tmp_path, None) as project,
    ):
        pass
