"""Recordings of prompts: what is refused, what is kept, and what the command line makes of it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.other_process import other_process
from tests.studio.running_studio import Page, running_studio, speech, wav

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.checks.check import check_data
from moonshine_tune.studio.project import open_project


def _names(answer: dict[str, object]) -> list[str]:
    findings = answer["findings"]
    assert isinstance(findings, list)
    return [item["name"] for item in findings]


def test_what_was_spoken_is_kept_as_it_was(tmp_path: Path) -> None:
    with running_studio(tmp_path / "project") as page:
        one, two = page.add_prompts("one two three", "four five six")
        page.ask("PATCH", "/api/project", {"speaker": "Anna", "session": "kitchen"})
        samples = speech(2.5, rate=48_000)
        page.ask("POST", f"/api/takes?prompt={one}", wav(np.stack([samples] * 2, 1), 48_000))
        page.ask("PATCH", "/api/project", {"keep_original": True})
        original = wav(speech(seed=1))
        clip = page.ask("POST", f"/api/takes?prompt={two}", original)["clip"]
        assert [item["takes"] for item in page.ask("GET", "/api/prompts")["prompts"]] == [1, 1]
        assert page.ask("GET", "/api/project")["counts"]["accepted"] == 2
        status, headers, content = page.send("GET", clip["audio"])
        assert (status, headers["content-type"], content[:4]) == (200, "audio/flac", b"fLaC")
        ranged = page.own | {"Range": "bytes=4-7"}
        status, headers, part = page.send("GET", clip["audio"], headers=ranged)
        assert (status, part) == (206, content[4:8])
    project = tmp_path / "project"
    assert (project / "originals" / f"{clip['id']}.wav").read_bytes() == original
    manifest = project / "manifest.jsonl"
    first, second = read_manifest(manifest).utterances
    assert (first.text, first.speaker, first.session) == ("one two three", "Anna", "kitchen")
    stored, rate = soundfile.read(first.audio)
    assert rate == 16_000 and stored.ndim == 1
    # Resampled and rounded to 16 bits, and otherwise what was sent.
    assert np.corrcoef(np.abs(stored), np.abs(samples[::3][: len(stored)]))[0, 1] > 0.5
    assert soundfile.read(second.audio)[0] == pytest.approx(speech(seed=1), abs=1e-4)
    assert check_data([manifest], SilentProgress()).passed


@pytest.mark.parametrize(
    ("sent", "reason", "can_keep"),
    [
        (wav(np.zeros(32_000)), "silent", False),
        (wav(np.clip(speech() * 40, -1, 1)), "clipped", True),
        (wav(speech(0.5)), "too_short", True),
        (wav(speech(0.05)), "far_too_short", False),
        (wav(speech() * 0.01), "too_quiet", True),
        (wav(speech() * 0.1 + 0.1 * np.random.default_rng(0).standard_normal(32_000)), "noisy", 1),
        (b"RIFF" + bytes(100), "unreadable", False),
        (wav(speech())[:-20_000], "unreadable", False),
        (wav(speech(31.0)), "too_long", False),
    ],
)
def test_a_fault_is_refused_with_its_reason(
    page: Page, sent: bytes, reason: str, can_keep: bool
) -> None:
    (prompt,) = page.add_prompts("one two three")
    before = page.ask("GET", "/api/project")["counts"]["accepted"]
    answer = page.ask("POST", f"/api/takes?prompt={prompt}", sent)
    assert answer["verdict"] == "refused" and answer["clip"] is None
    assert reason in _names(answer)
    assert all(item["message"] and item["action"] for item in answer["findings"])
    answer = page.ask("POST", f"/api/takes?prompt={prompt}&keep=1", sent)
    assert answer["verdict"] == ("accepted" if can_keep else "refused")
    after = page.ask("GET", "/api/project")["counts"]["accepted"]
    assert after == before + bool(can_keep)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> object:
    with running_studio(tmp_path_factory.mktemp("takes")) as started:
        yield started


def test_a_take_that_is_sent_again_is_there_once(page: Page) -> None:
    (prompt,) = page.add_prompts("seven eight nine")
    sent = wav(speech(seed=3))
    first = page.ask("POST", f"/api/takes?prompt={prompt}&take=0123-abcd", sent)
    again = page.ask("POST", f"/api/takes?prompt={prompt}&take=0123-abcd", sent)
    assert first["clip"]["id"] == again["clip"]["id"] == "take-0123-abcd"
    prompts = page.ask("GET", "/api/prompts?limit=500")["prompts"]
    assert [item["takes"] for item in prompts if item["id"] == prompt] == [1]
    assert page.refusal("POST", "/api/takes?prompt=x&take=0123-abce", sent)[0] == 404
    assert page.refusal("POST", f"/api/takes?prompt={prompt}&take=../../x", sent)[0] == 400
    assert page.refusal("POST", f"/api/takes?prompt={prompt}", b"")[0] == 400


def test_a_take_can_be_taken_back_and_its_text_corrected(tmp_path: Path) -> None:
    with running_studio(tmp_path / "project") as page:
        one, two = page.add_prompts("one two three", "four five six")
        sent = wav(speech(seed=3))
        clip = page.ask("POST", f"/api/takes?prompt={one}&take=abcd-1234", sent)["clip"]
        page.ask("POST", f"/api/clips/{clip['id']}", {"text": "one two tree"})
        # The prompt was read, whatever its text has become.
        takes = {p["id"]: p["takes"] for p in page.ask("GET", "/api/prompts")["prompts"]}
        assert takes == {one: 1, two: 0}
        assert page.ask("POST", "/api/undo")["undone"] == "changed the text"
        assert page.ask("POST", "/api/undo")["undone"] == "recorded"
        assert page.ask("GET", "/api/project")["counts"]["accepted"] == 0
    # What was taken back is not taken for a recording that got lost.
    with running_studio(tmp_path / "project") as page:
        counts = page.ask("GET", "/api/project")["counts"]
        assert (counts["accepted"], counts["unlabelled"]) == (0, 0)
        clip = page.ask("POST", f"/api/takes?prompt={one}&take=abcd-1234", sent)["clip"]
        assert clip["state"] == "accepted" and clip["text"] == "one two three"


def test_prompts_come_from_lists_and_files_and_skipped_ones_are_last(page: Page) -> None:
    lines = "first sentence\n\n  first   sentence \nzweiter Satz: schön\n"
    headers = page.own | {"Content-Type": "text/plain; charset=utf-8"}
    status, _, content = page.send("POST", "/api/prompts", lines.encode(), headers)
    assert status == 200 and b'"added":2' in content.replace(b" ", b"")
    first, second = page.add_prompts("first sentence", "zweiter Satz: schön")
    page.ask("POST", f"/api/prompts/{first}/skip")
    left = [p["id"] for p in page.ask("GET", "/api/prompts?limit=500")["prompts"] if not p["takes"]]
    assert left.index(second) < left.index(first)
    page.ask("DELETE", f"/api/prompts/{first}")
    assert first not in [p["id"] for p in page.ask("GET", "/api/prompts?limit=500")["prompts"]]
    assert page.refusal("POST", "/api/prompts", {"source": "list", "text": "a " * 2000})[0] == 400


def test_a_folder_has_one_studio(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    with (
        other_process(f"with one_writer(Path({str(folder)!r})):\n    wait()"),
        pytest.raises(RequestError, match="works in this folder") as refused,
        open_project(folder, None),
    ):
        pass
    assert "Ctrl-C" in (refused.value.hint or "")
    # The port is kept, so that the browser finds what it keeps for the page.
    with running_studio(folder) as page:
        port = page.port
    with running_studio(folder) as page:
        assert page.port == port
