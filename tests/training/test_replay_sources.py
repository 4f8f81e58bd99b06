"""Training with replay audio that is made here, and resuming it after the cache was emptied."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.corpus.manifest import HELD_OUT_KEY, Utterance
from moonshine_tune.data import replay_audio
from moonshine_tune.data.synthesis.general_sentences import replay_sentences
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.continued import continue_run
from moonshine_tune.training.prepare import _held_out
from moonshine_tune.training.run import train


def test_auto_is_recorded_and_made_again_for_a_resume(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_audio, "replay_sentences", lambda: replay_sentences()[:8])
    monkeypatch.setattr(replay_audio, "_TEMPOS", (1.0,))
    out, changes = tmp_path / "run", {"train__steps": 3, "select__every_steps": 3}
    settings = training.settings(data__replay="auto", **changes)
    assert train(settings, out, training.Watcher.interrupting(1)).stopped == "interrupted"
    record = json.loads((out / "run.json").read_text())
    assert record["replay"]["kind"] == "auto" and record["replay"]["clips"] > 2
    assert record["remarks"][0].startswith("replay: auto, ")
    manifest = Path(record["settings"]["data"]["replay"])
    assert manifest.is_relative_to(cache_root())
    shutil.rmtree(cache_root() / "replay-audio")
    result = train(
        training.settings(data__replay=str(manifest), **changes),
        out,
        training.Watcher(),
        resume=True,
    )
    assert result.stopped == "finished" and manifest.is_file()
    assert result.replay is not None and result.replay.kind == "auto"
    assert result.best.canary.startswith("held-out replay: two_cities, ")
    scores = [line for line in training.lines(out) if "canary_wer" in line]
    assert {line["canary"] for line in scores} == {result.best.canary}
    assert any("replay_kl" in line for line in training.lines(out))


def test_marked_clips_are_held_out_before_others_are_chosen() -> None:
    clips = [Utterance(str(n), Path(f"{n}.wav")) for n in range(40)]
    assert _held_out(clips, 8) == set(range(0, 40, 5))
    assert _held_out(clips[:10], 8) == set() and _held_out(clips, 0) == set()
    marked = [
        Utterance(item.id, item.audio, extra={HELD_OUT_KEY: number in (3, 7)})
        for number, item in enumerate(clips)
    ]
    assert _held_out(marked, 8) == {3, 7}
    assert _held_out(marked, 1) == {3} and _held_out(marked, 0) == set()


def test_a_run_of_an_earlier_version_goes_on_without_replay(training: Any, tmp_path: Path) -> None:
    """Its preset had no replay audio, as a plan resumes it with the preset of now."""
    before = training.settings()
    run = RunFolder.create(tmp_path / "run")
    run.write_record(job="train", settings=before.settings.model_dump(mode="json"))
    now = training.settings(data__replay="auto")
    by_preset = ResolvedSettings(now.settings, {**now.sources, "data.replay": "preset tiny"})
    assert continue_run(run.path, by_preset).resolved.settings.data.replay is None
    # Who asks for it gets it; that the data has changed comes later.
    assert continue_run(run.path, now).resolved.settings.data.replay == "auto"
