"""Training on recordings without transcripts: both rounds, what is recorded, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tests.conftest import clip_of
from tests.training_runs import Training

from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.pseudo_labels import label
from moonshine_tune.data.pseudo_labels.label import PseudoLabel
from moonshine_tune.inference.dataset import TrainingData, build_dataset
from moonshine_tune.registry.open import open_model
from moonshine_tune.report.origins import origins_of
from moonshine_tune.report.reading import read_report_input
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import BETTER, NO_GAIN
from moonshine_tune.training import pseudo_labels as rounds
from moonshine_tune.training import trainer
from moonshine_tune.training.run import train
from moonshine_tune.training.train_dev_split import train_and_dev

pytestmark = pytest.mark.usefixtures("one_thread")

_SHORT = {"train__steps": 2, "select__every_steps": 2}


def _trusted(dataset: Any, *_: Any, **__: Any) -> list[PseudoLabel]:
    """Labels of a model that has every third clip wrong, and doubts it."""
    return [
        PseudoLabel(item.text or "best of times", 0.9, 0.9, 0.9)
        if n % 3
        else PseudoLabel("far", 0.1, 0.1, 0.1)
        for n, item in enumerate(dataset.utterances)
    ]


@pytest.fixture(autouse=True, scope="module")
def _every_adapter_is_better() -> Iterator[None]:
    """A small random model learns nothing in two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "verdict_on", lambda *_: BETTER)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`calls/` with 16 recordings and `dev.jsonl` with 12. Read only."""
    root = tmp_path_factory.mktemp("unlabelled")
    (root / "calls").mkdir()
    lines = []
    for n in range(28):
        path = root / ("calls" if n >= 12 else ".") / f"{n:02d}.wav"
        soundfile.write(path, clip_of(0.4 + 0.02 * n, 100 + n), 16_000)
        if n < 12:
            lines.append({"id": f"d{n}", "audio": path.name, "text": "two cities"})
    (root / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def _settings(training: Training, folder: Path, *names: str, **changes: Any) -> Any:
    content = training.content(*names)
    content["data"] |= {"dev": str(folder / "dev.jsonl"), "unlabelled": str(folder / "calls")}
    if "train" not in names:
        del content["data"]["train"]
    from tests.training_runs import resolve

    return resolve(content, **(_SHORT | changes))


@pytest.fixture(scope="module")
def run(
    training: Training,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    one_thread: None,
) -> Path:
    """A finished run of two rounds on pseudo-labels alone. Read only."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "pseudo_labels", _trusted)
        train(_settings(training, folder), out, SilentProgress())
    return out


def test_the_record_says_what_was_kept_and_why(run: Path) -> None:
    record = RunFolder(run).read_record()
    labels = record.pseudo_labels
    assert labels is not None
    assert (labels.clips, labels.kept, labels.dev_clips, labels.dev_kept) == (16, 10, 12, 8)
    assert (labels.train, labels.train_transcribed, labels.share) == (10, 0, 1.0)
    assert labels.threshold == pytest.approx(0.7684)
    assert "kept 10 of 16 clips (" in labels.sentence
    assert "0.0 % of the words wrong on such clips (8 of 12), 33.3 % on all" in labels.sentence
    assert record.settings["data"]["train"] is None and record.synthetic is None
    facts = {name: value for name, value, _ in origins_of(read_report_input(run)).facts}
    assert facts["pseudo-labels"] == labels.sentence


def test_the_labels_are_a_manifest_with_the_parts_of_the_score(run: Path, folder: Path) -> None:
    learned = read_manifest(run / "pseudo-labels" / "learned.jsonl").utterances
    left_out = read_manifest(run / "pseudo-labels" / "left_out.jsonl").utterances
    assert len(learned) == 10 and len(left_out) == 6
    assert all(item.is_pseudo_labelled and item.text == "best of times" for item in learned)
    assert learned[0].extra["score"] == pytest.approx(0.7684)
    assert {"confidence", "agreement", "attention"} <= set(learned[0].extra)
    assert learned[0].audio.parent == (folder / "calls").resolve()
    assert sorted(path.name for path in (folder / "calls").iterdir()) == [
        f"{n:02d}.wav" for n in range(12, 28)
    ], "nothing is written beside the recordings"


def test_both_rounds_are_recorded_and_no_gain_is_said(run: Path) -> None:
    result = RunFolder(run).read_record().result
    assert [item.adapter for item in result.rounds] == ["rounds/1/adapter", "rounds/2/adapter"]
    assert [item.labels.labelled_by for item in result.rounds] == ["base", "round 1"]
    assert sum(item.is_kept for item in result.rounds) == 1
    (kept,) = [item for item in result.rounds if item.is_kept]
    assert result.best == kept.best
    same = "adapter_model.safetensors"
    assert (run / "adapter" / same).read_bytes() == (run / kept.adapter / same).read_bytes()
    # Labels made up for this test, and a model that learns nothing.
    assert result.gain is not None and result.gain.before == pytest.approx(33.33, abs=0.01)
    assert result.gain.verdict != BETTER and result.verdict == NO_GAIN


def test_an_interrupted_round_goes_on_without_labelling_again(
    run: Path, training: Training, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InSecondRound(Training.Watcher):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("round 2:"):
                self._step = 1

    monkeypatch.setattr(rounds, "pseudo_labels", _trusted)
    out, watcher = tmp_path / "run", InSecondRound.interrupting(0)
    settings = _settings(training, folder)
    assert train(settings, out, watcher).stopped == "interrupted"
    assert RunFolder(out).read_record().status == "interrupted"
    monkeypatch.setattr(rounds, "pseudo_labels", None)
    resumed = train(settings, out, SilentProgress(), resume=True)
    assert resumed.stopped == "finished" and len(resumed.rounds) == 2
    assert Training.adapter(out) == Training.adapter(run)


def test_transcribed_clips_stay_and_are_counted_apart(
    training: Training, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "pseudo_labels", _trusted)
    settings = _settings(training, folder, "train", data__pseudo_rounds=1)
    result = train(settings, tmp_path / "run", SilentProgress())
    labels = result.pseudo_labels
    assert labels is not None and (labels.train, labels.train_transcribed) == (10, 8)
    assert labels.share == pytest.approx(10 / 18, abs=1e-3)
    assert "of 10 of 18 training clips" in labels.sentence
    # A gain may come from the transcribed clips: it is recorded, and is no verdict on the labels.
    assert result.gain is not None and result.verdict == BETTER
    assert [item.adapter for item in result.rounds] == ["adapter"]


def test_a_random_model_is_not_trusted_and_labels_once(
    training: Training, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with pytest.raises(NegativeAnswerError, match="no label can be trusted") as error:
            train(_settings(training, folder), tmp_path / "run", SilentProgress())
        assert error.value.exit_code == 1 and "--train" in (error.value.hint or "")
        # The second time, the labels come from the cache.
        monkeypatch.setattr(label, "_labels", None)
    assert not (tmp_path / "run").exists()


def test_every_clip_gets_a_score_and_a_damaged_one_none(
    training: Training, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(str(training.model), device="cpu", progress=SilentProgress())
    (tmp_path / "damaged.wav").write_bytes(b"RIFF and no more")
    soundfile.write(tmp_path / "silent.wav", 0.0 * clip_of(1.0), 16_000)
    clips = [
        *read_manifest(folder / "dev.jsonl").utterances[:3],
        Utterance("damaged", tmp_path / "damaged.wav", duration=1.0),
        Utterance("silent", tmp_path / "silent.wav"),
    ]
    dataset = build_dataset(clips, opened.model, name="x", max_clip_s=9.0, needs_text=False)
    watcher = Training.Watcher()
    # A random model repeats itself, and is sure of nothing.
    monkeypatch.setattr(label, "has_loop", lambda _: False)
    monkeypatch.setattr(label, "word_confidence", lambda *_: 0.5)
    labels = label.pseudo_labels(dataset, opened, normalizer_for(None), watcher, "labeling")
    parts = [(item.confidence, item.agreement, item.attention) for item in labels[:3]]
    assert all(0.0 <= value <= 1.0 for item in parts for value in item)
    assert all(item.confidence == 0.5 for item in labels[:3])
    assert labels[3] == PseudoLabel("") and labels[3].score == 0.0
    assert labels[4].score == 0.0
    assert any("1 clips cannot be read, such as" in text for text in watcher.messages)


def test_voices_of_dev_may_be_in_recordings_that_a_model_labels(
    training: Training, folder: Path
) -> None:
    def data(mark: bool) -> TrainingData:
        extra = {"pseudo_label": True} if mark else {}
        both = [
            Utterance(f"{name}{n}", Path(f"/{name}{n}.wav"), "two", speaker=f"s{n}", extra=extra)
            for name in "ab"
            for n in range(4)
        ]
        manifests = [Manifest(Path(f"{k}.jsonl"), tuple(both[k : k + 4]), "") for k in (0, 4)]
        return TrainingData(*manifests)

    settings = _settings(training, folder).settings
    split = train_and_dev(settings, data(mark=True))
    assert any("4 of its speakers are also in recordings" in text for text in split.remarks)
    with pytest.raises(RequestError, match="dev shares 4 speakers with train"):
        train_and_dev(settings, data(mark=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__dev": None}, "need a development set of people, with true texts"),
        ({"train__folds": 2}, "train.folds and --unlabelled"),
        ({"adapter__parent": "runs/a"}, "--from and --unlabelled"),
    ],
)
def test_what_cannot_be_labelled_is_refused_at_once(
    training: Training, folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        train(_settings(training, folder, **changes), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()
