"""Which clips the parity gate transcribes, when it stops, and what it keeps of the base."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from moonshine_tune.audio.io import write_audio
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.export.parity import base_pair, gate
from moonshine_tune.export.parity import clips as clips_module
from moonshine_tune.export.parity.base_pair import BasePair, find_base_pair
from moonshine_tune.export.parity.clips import ParityClips, parity_clips
from moonshine_tune.export.run import _remarks_on_run
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import write_selection
from moonshine_tune.runs.records import EQUAL, NOT_DECIDED, WORSE, AgainstBase, SelectionRecord
from moonshine_tune.runtime.layout import RuntimeLayout

_TEXT = "one two three four five"


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the manifests of a run with this many clips each."""
    write_audio(tmp_path / "a.wav", np.zeros(16_000, np.float32))
    monkeypatch.setattr(clips_module, "cached_wheel_assets", lambda _: None)

    def run(**counts: int) -> Path:
        data: dict[str, str | None] = {"train": None, "dev": None, "canary": None, "replay": None}
        for name, count in counts.items():
            lines = [
                {"id": f"{name}{n}", "audio": "a.wav", "text": _TEXT, "start": 0.0,
                 "end": round(0.2 + 1e-4 * n + 0.2 * list(data).index(name), 5)}
                for n in range(count)
            ]  # fmt: skip
            data[name] = str(tmp_path / f"{name}.jsonl")
            Path(str(data[name])).write_text("".join(json.dumps(line) + "\n" for line in lines))
        folder = RunFolder.create(tmp_path / "run")
        folder.write_record(settings={"data": data})
        return folder.path

    return run


def _blocks(clips: ParityClips) -> list[tuple[str, int]]:
    return [(name, len(block)) for name, block in clips.further("en", 1)]


def test_general_speech_comes_after_the_rest_of_the_set(sets: Callable[..., Path]) -> None:
    clips = parity_clips(sets(dev=70, canary=30, replay=60), None)
    assert (clips.name, len(clips.first)) == ("dev", 40)
    blocks = _blocks(clips)
    # 24 of the replay clips are those that the rounding is calibrated on.
    assert blocks == [("dev", 30), ("canary", 30), ("replay", 36)]


def test_general_speech_that_was_not_asked_for_is_bounded(sets: Callable[..., Path]) -> None:
    clips = parity_clips(sets(dev=50, replay=400), None)
    assert _blocks(clips) == [("dev", 10), ("replay", 50), ("replay", 30)]


def test_what_cannot_decide_is_not_transcribed(sets: Callable[..., Path]) -> None:
    clips = parity_clips(sets(dev=1, canary=12), None)
    assert list(clips.further("en", 19)) == [] and list(clips.further("en", 13)) != []


def test_clips_are_doubled_up_to_a_bound(sets: Callable[..., Path]) -> None:
    clips = parity_clips(sets(dev=1000), None)
    assert _blocks(clips) == [("dev", 40), ("dev", 80), ("dev", 160)]
    ids = [item.id for item in clips.first]
    assert len(set(ids)) == 40 and ids[-1] == "dev975"


def test_the_clips_of_the_manifest_are_not_added_again(sets: Callable[..., Path]) -> None:
    run = sets(dev=5, canary=20)
    clips = parity_clips(run, run.parent / "canary.jsonl")
    assert clips.name == "canary.jsonl" and len(clips.first) == 20
    assert _blocks(clips) == []


def test_a_manifest_that_is_gone_is_named(sets: Callable[..., Path]) -> None:
    run = sets(dev=5)
    (run.parent / "dev.jsonl").unlink()
    with pytest.raises(RequestError, match="the parity gate needs its clips"):
        parity_clips(run, None)
    with pytest.raises(RequestError, match="needs real clips"):
        parity_clips(None, None)


@dataclass
class _Systems:
    """A pair and a base with made-up transcripts: the runtime changes these of each ten clips."""

    changed: int = 0
    base_changed: int = 0
    unreadable: str = "none"
    added: list[str] = field(default_factory=list)
    progress: SilentProgress = field(default_factory=SilentProgress)
    opened: Any = field(default_factory=lambda: SimpleNamespace(language="en"))

    def transcribe(self, utterances: Sequence[Utterance], of: Any) -> tuple[list[str], list[str]]:
        changed = self.changed
        if isinstance(of, SilentProgress):
            changed = self.base_changed
        else:
            self.added.append(of)
            if of == self.unreadable:
                raise ProblemsError("2 of 30 recordings cannot be read", ["a", "b"])
        texts = [_TEXT] * len(utterances)
        return texts, [
            "wrong " * 5 if index % 10 < changed else _TEXT for index in range(len(texts))
        ]


def _judge(systems: _Systems, clips: ParityClips) -> AgainstBase:
    pair, base = cast(Any, systems), cast(BasePair, systems)
    known = gate._joined(clips.first, systems.transcribe(clips.first, ""), base, pair.progress)
    systems.added.clear()
    return gate._judge_with_more(known, clips, pair, base, normalizer_for("basic-1"), 5.0)


def test_clips_are_added_until_the_interval_decides(sets: Callable[..., Path]) -> None:
    systems = _Systems()
    judged = _judge(systems, parity_clips(sets(dev=20, canary=30, replay=90), None))
    assert judged.verdict == EQUAL and systems.added == ["canary", "canary"]
    assert judged.sources == {"dev": 20, "canary": 30} and judged.general_clips == 30


def test_what_is_worse_is_worse_at_once(sets: Callable[..., Path]) -> None:
    systems = _Systems(changed=5, base_changed=1)
    judged = _judge(systems, parity_clips(sets(dev=40, canary=90), None))
    assert judged.verdict == WORSE and systems.added == []


def test_what_stays_open_is_not_decided_and_says_what_would_decide(
    sets: Callable[..., Path],
) -> None:
    clips = parity_clips(sets(dev=12), None)
    judged = _judge(_Systems(), clips)
    assert judged.verdict == NOT_DECIDED and judged.clips == 12
    assert "more clips like those of dev, with texts, would decide" in gate._advice(judged, clips)


def test_general_speech_that_cannot_be_read_does_not_stop_the_export(
    sets: Callable[..., Path],
) -> None:
    systems = _Systems(unreadable="canary")
    judged = _judge(systems, parity_clips(sets(dev=20, canary=10, replay=90), None))
    assert judged.verdict == EQUAL and "canary" not in judged.sources


# --- the base


def _pair(folder: Path) -> BasePair:
    opened = SimpleNamespace(
        model=SimpleNamespace(dtype="float32", family="v1"),
        device=SimpleNamespace(device=SimpleNamespace(type="cpu")),
        limits=SimpleNamespace(tokens_per_second=6.5),
        resolved=SimpleNamespace(runtime_dir=None, name="mine"),
    )
    layout = RuntimeLayout(folder, "v1", ("a.ort",))
    return BasePair(cast(Any, opened), cast(Any, SimpleNamespace()), layout)


def test_the_base_is_decoded_once_for_the_same_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: Callable[..., Path]
) -> None:
    decoded: list[str] = []

    class Runtime:
        backend = "runtime"

        def __init__(self, folder: Path) -> None: ...
        def __enter__(self) -> "Runtime":
            return self

        def __exit__(self, *_: object) -> None: ...

    def transcribe(way: Any, utterances: Sequence[Utterance], *_: Any) -> Any:
        decoded.append(way.backend)
        return SimpleNamespace(texts=tuple(f"{way.backend} {item.id}" for item in utterances))

    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base_pair, "transcribe_utterances", transcribe)
    monkeypatch.setattr(base_pair, "open_runtime", lambda _, folder: Runtime(folder))
    monkeypatch.setattr(base_pair, "base_identity", lambda _: {"sha256": "0" * 64})
    monkeypatch.setattr(base_pair, "has_adapter", lambda _: True)
    monkeypatch.setattr(base_pair, "adapter_disabled", lambda _: nullcontext())
    monkeypatch.setattr(base_pair, "TorchTranscriber", lambda *_: SimpleNamespace(backend="torch"))
    clips = parity_clips(sets(dev=3), None)
    (tmp_path / "a.ort").write_bytes(b"weights")
    first = _pair(tmp_path).transcribe(clips.first, SilentProgress())
    again = _pair(tmp_path).transcribe(clips.first, SilentProgress())
    assert list(map(list, again)) == list(map(list, first)) and decoded == ["torch", "runtime"]
    # Other files, or other clips, are decoded.
    (tmp_path / "a.ort").write_bytes(b"other weights")
    _pair(tmp_path).transcribe(clips.first, SilentProgress())
    assert decoded == ["torch", "runtime", "runtime"]
    _pair(tmp_path).transcribe(clips.first[:2], SilentProgress())
    assert decoded[3:] == ["torch", "runtime"]


def test_without_files_of_the_base_the_fixed_bound_holds(tmp_path: Path) -> None:
    opened = _pair(tmp_path).opened
    pair, reason = find_base_pair(opened, opened.resolved, None)
    assert pair is None
    assert reason == "the fixed bound: no runtime files of the base model mine"
    pair, reason = find_base_pair(opened, opened.resolved, tmp_path / "none")
    assert pair is None and "no such runtime folder" in reason


def test_what_changed_since_the_run_is_said(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.adapter_dir.mkdir()
    (run.adapter_dir / ADAPTER_CONFIG_FILE).write_text("{}")
    (run.adapter_dir / ADAPTER_WEIGHTS_FILE).write_bytes(b"learned")
    write_selection(run.adapter_dir, SelectionRecord(dev_wer=9.0))
    dev = tmp_path / "dev.jsonl"
    dev.write_text("before")
    run.write_record(settings={"data": {"dev": str(dev)}}, data={"dev": sha256_of(dev)})
    assert _remarks_on_run(run.path) == []
    dev.write_text("after")
    (run.adapter_dir / ADAPTER_WEIGHTS_FILE).write_bytes(b"edited")
    altered, changed = _remarks_on_run(run.path)
    assert altered.startswith("adapter_model.safetensors changed after the training")
    assert changed == f"data.dev: {dev} has changed since the run was started"
