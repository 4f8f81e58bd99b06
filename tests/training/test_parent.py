"""A run that goes on from an earlier adapter: what it starts at, replays, records and says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Answer
from tests.training_runs import Watcher, resolve

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.sampler import CurriculumStage, EarlierShare, StagedSampler
from moonshine_tune.registry.model_preset import with_model_preset
from moonshine_tune.release.inputs import public_run
from moonshine_tune.runs.parent import read_parent, with_parent
from moonshine_tune.runs.records import (
    NOT_BETTER_THAN_PARENT,
    RunRecord,
    SelectionRecord,
    verdict_on,
)
from moonshine_tune.training.run import train
from moonshine_tune.training.start import start_of_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def manifests(training: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The training clips of the shared folder in two halves: two weeks."""
    folder = tmp_path_factory.mktemp("weeks")
    lines = []
    for line in (training.speech / "train.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        lines.append(json.dumps(record | {"audio": str(training.speech / record["audio"])}) + "\n")
    half = len(lines) // 2
    paths = {}
    for name, part in (("first", lines[:half]), ("second", lines[half:])):
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(part), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def parent(
    training: Any, manifests: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on the first week. Read only."""
    out = tmp_path_factory.mktemp("parent") / "a"
    settings = training.settings("replay", data__train=str(manifests["first"]), train__steps=4)
    train(settings, out, SilentProgress())
    return out


def _settings(
    parent: Path, train_manifest: Path, *, source: str = "test", **changes: Any
) -> ResolvedSettings:
    """The settings of `train --from PARENT --train MANIFEST`, on the CPU.

    `source` is recorded as that of all of them.
    """
    data = {"train": str(train_manifest)}
    layers = [("flag", {"adapter": {"parent": str(parent)}, "data": data, "device.name": "cpu"})]
    resolved = resolve_settings(with_model_preset(with_parent(layers)))
    content = resolve(resolved.settings.model_dump(mode="json"), **changes).settings
    return resolve_settings([(source, content.model_dump(mode="json"))])


def test_it_starts_at_the_parent_and_says_what_it_replays(
    parent: Path, manifests: dict[str, Path], tmp_path: Path
) -> None:
    settings = _settings(parent, manifests["second"], train__steps=1)
    # The settings of the parent, but for what is the machine's or the new recordings'.
    assert settings.settings.adapter.rank == 4 and settings.settings.data.replay is not None
    watcher = Watcher()
    result = train(settings, tmp_path / "b", watcher)
    before = RunRecord.read(parent / "run.json")
    record = RunRecord.read(tmp_path / "b" / "run.json")
    assert result.parent is not None
    assert result.parent.dev_wer == pytest.approx(before.result.best.dev_wer)
    assert result.baseline.dev_wer == pytest.approx(before.result.baseline.dev_wer)
    (own,) = record.lineage
    assert own.path == str(parent) and own.steps == 4 and len(own.adapter_sha256) == 64
    assert own.base_sha256 == before.base.content_sha256
    count = len(manifests["first"].read_text().splitlines())
    said = [text for text in watcher.messages if text.startswith("earlier: ")]
    assert said == [f"earlier: {count} recordings of {parent} are replayed, 50% of what is drawn"]


def test_a_chain_replays_the_recordings_of_all_its_runs(
    parent: Path, manifests: dict[str, Path], training: Any, tmp_path: Path
) -> None:
    train(_settings(parent, manifests["second"], train__steps=1), tmp_path / "b", SilentProgress())
    train(
        _settings(tmp_path / "b", manifests["first"], train__steps=1), tmp_path / "c",
        watcher := Watcher(),
    )  # fmt: skip
    record = RunRecord.read(tmp_path / "c" / "run.json")
    assert [item.path for item in record.lineage] == [str(tmp_path / "b"), str(parent)]
    both = len((training.speech / "train.jsonl").read_text().splitlines())
    assert len((tmp_path / "c" / "parent" / "train.jsonl").read_text().splitlines()) == both
    # The first week is trained on again: it is new and not earlier, and nothing is drawn twice.
    first = len(manifests["first"].read_text().splitlines())
    assert any(
        f"{both - first} recordings" in text and f"{first} of the {first}" in text
        for text in watcher.messages
    )


def test_a_resume_is_exact_after_the_parent_is_gone(
    parent: Path, manifests: dict[str, Path], training: Any, tmp_path: Path
) -> None:
    copy, first = tmp_path / "a", tmp_path / "first.jsonl"
    shutil.copytree(parent, copy)
    shutil.copyfile(manifests["first"], first)
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["data"]["train"] = str(first)
    (copy / "run.json").write_text(json.dumps(record))
    settings = _settings(copy, manifests["second"], train__steps=4, select__every_steps=2)
    train(settings, tmp_path / "uninterrupted", SilentProgress())
    result = train(settings, tmp_path / "run", Watcher.interrupting(3))
    assert result.stopped == "interrupted"
    shutil.rmtree(copy)
    first.unlink()
    train(settings, tmp_path / "run", SilentProgress(), resume=True)
    assert training.is_same(tmp_path / "run", tmp_path / "uninterrupted")
    with pytest.raises(RequestError, match=r"adapter\.parent"):
        train(
            resolve(settings.settings.model_dump(mode="json"), adapter__parent=str(parent)),
            tmp_path / "run", SilentProgress(), resume=True,
        )  # fmt: skip


def test_base_adapter_before_and_new_one_are_shown_side_by_side(
    parent: Path, manifests: dict[str, Path], training: Any, tmp_path: Path,
    ask: Callable[..., Answer],
) -> None:  # fmt: skip
    out = tmp_path / "b"
    code, trained = ask("train", "--from", parent, "--train", manifests["second"], "--out", out,
                        "--set", "device.name=cpu", "--set", "train.steps=2")  # fmt: skip
    before = trained["parent"]["dev_wer"]
    result = RunRecord.read(out / "run.json").result
    assert trained["verdict"] == result.model_copy(update={"verdict": ""}).judged
    assert code == (trained["verdict"] != "better")
    dev = training.speech / "dev.jsonl"
    code, scored = ask("evaluate", "--adapter", out, "--manifest", dev, "--out", out / "eval/dev")
    assert code == 0, scored
    sides = {item["side"]: item for item in scored["systems"]}
    assert list(sides) == ["base", "parent", "adapted"]
    assert sides["parent"]["wer"] == pytest.approx(before)
    change = sides["parent"]["comparison"]
    assert change["before"] == sides["parent"]["wer"] and change["after"] == scored["wer"]
    assert ask("report", out)[0] == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Adapter before" in page and "started at" in page
    record = public_run(RunRecord.read(out / "run.json"))
    assert str(tmp_path) not in json.dumps(record.to_json()) and record.lineage[0].adapter_sha256


@pytest.mark.parametrize(("best", "verdict"), [(9.0, "better"), (10.0, NOT_BETTER_THAN_PARENT),
                                               (20.0, "no better than the base")])  # fmt: skip
def test_an_adapter_must_beat_the_one_before(best: float, verdict: str) -> None:
    base, parent, new = (SelectionRecord(dev_wer=wer) for wer in (20.0, 10.0, best))
    assert verdict_on(base, new, None, parent) == verdict


def test_the_dev_set_of_other_voices_is_not_taken_for_one_new_voice(
    parent: Path, manifests: dict[str, Path], tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in manifests["second"].read_text().splitlines()]
    own = tmp_path / "zoe.jsonl"
    own.write_text("".join(json.dumps(line | {"speaker": "zoe"}) + "\n" for line in lines))
    start = start_of_run(_settings(parent, own, source=f"--from {parent}"), None)
    assert start.data.dev is None and start.resolved.settings.data.dev is None
    assert any("some recordings of zoe are held out instead" in text for text in start.remarks)
    # One that was typed is taken, and so is that of the parent for recordings without a name.
    assert start_of_run(_settings(parent, own, source="flag"), None).data.dev is not None
    own.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "speaker"}) + "\n"
                           for line in lines))  # fmt: skip
    assert start_of_run(_settings(parent, own, source=f"--from {parent}"), None).data.dev


def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    parent: Path, manifests: dict[str, Path], training: Any, tmp_path: Path,
    ask: Callable[..., Answer],
) -> None:  # fmt: skip
    words = ("train", "--train", manifests["second"], "--out", tmp_path / "b", "--from")
    code, refused = ask(*words, parent, "--set", "adapter.rank=8", "--set", "adapter.sites=all")
    assert code == 2
    assert f"adapter.rank: 4 in {parent}, 8 by --set" in refused["error"]["message"]
    assert "--set adapter.rank=4 --set adapter.sites=decoder" in refused["error"]["hint"]
    code, refused = ask(*words, tmp_path / "gone")
    assert code == 2 and "no such folder" in refused["error"]["message"]
    assert not (tmp_path / "b").exists()


def test_another_base_is_refused(
    parent: Path, manifests: dict[str, Path], saved_streaming: Path, tmp_path: Path
) -> None:
    settings = _settings(parent, manifests["second"])
    content = settings.settings.model_dump(mode="json") | {"model": str(saved_streaming)}
    with pytest.raises(RequestError, match="trained on another base model"):
        train(resolve(content), tmp_path / "b", SilentProgress())


def test_an_adapter_alone_is_gone_on_with_and_missing_recordings_are_named(
    parent: Path, manifests: dict[str, Path], training: Any, tmp_path: Path
) -> None:
    shutil.copytree(parent / "adapter", tmp_path / "alone")
    found = read_parent(tmp_path / "alone")
    assert found.run is None and found.shape == read_parent(parent).shape
    settings = training.settings(
        data__train=str(manifests["second"]), train__steps=2,
        adapter__parent=str(tmp_path / "alone"),
        **{f"adapter__{name}": value for name, value in found.shape.items()},
    )  # fmt: skip
    watcher = Watcher()
    assert train(settings, tmp_path / "b", watcher).parent is not None
    assert any("its recordings are not known" in text for text in watcher.messages)


def test_no_earlier_recording_is_drawn_more_often_than_a_new_one() -> None:
    seconds = [1.0] * 40
    stage = [CurriculumStage(50, 9.0)]

    def share(num_old: int) -> float:
        old = frozenset(range(40 - num_old, 40))
        sampler = StagedSampler(seconds, stage, batch_size=4, earlier=EarlierShare(old, 0.5))
        drawn = [index for step in range(50) for index in sampler.plan(step).indices]
        return sum(index in old for index in drawn) / len(drawn)

    assert share(36) == pytest.approx(0.5, abs=0.05)
    assert share(10) == pytest.approx(0.25, abs=0.02)
