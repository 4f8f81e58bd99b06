"""Clips without speech teach the model to write nothing, if the settings ask for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.training_runs import Training

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.training import objective as objective_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

_SETS = ("train", "replay", "noise")


@pytest.fixture(scope="module")
def speech(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic recordings, with four clips of noise and an empty text in train and replay."""
    folder = tmp_path_factory.mktemp("silence")
    rng = np.random.default_rng(7)
    noise = []
    for number in range(4):
        name = folder / f"noise-{number}.wav"
        soundfile.write(name, 0.01 * rng.standard_normal(12_000), 16_000)
        noise.append({"id": name.stem, "audio": str(name), "text": "" if number % 2 else "  "})
    for source in ("train", "dev", "replay"):
        lines = []
        for item in read_manifest(speech_folder / f"{source}.jsonl", require_text=False).utterances:
            text = {} if item.text is None else {"text": item.text}
            lines.append({"id": item.id, "audio": str(item.audio), "speaker": item.speaker, **text})
        lines += noise if source in _SETS else []
        (folder / f"{source}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "noise.jsonl").write_text("".join(json.dumps(x) + "\n" for x in noise))
    return folder


@pytest.fixture
def silence(training: Training, speech: Path) -> Training:
    return Training(training.model, speech)


def test_an_empty_text_is_kept_and_a_missing_one_is_not(tiny_model: SpeechModel) -> None:
    audio = Path("a.wav")
    texts = {"speech": "one", "empty": "", "spaces": " \u3000\t", "none": None}
    utterances = [Utterance(n, audio, text, duration=1.0) for n, text in texts.items()]

    def kept(**named: bool) -> Any:
        return build_dataset(
            utterances, tiny_model, name="train", max_clip_s=9, needs_text=True, **named
        )

    dataset = kept(keeps_silence=True)
    assert [item.id for item in dataset.utterances] == ["speech", "empty", "spaces"]
    assert [dataset.is_silent(index) for index in range(3)] == [False, True, True]
    assert dataset.tokens[1:] == ((), ())
    assert dataset.remarks[0] == "train: kept 3 of 4: 1 empty text; 2 of them teach silence"
    assert kept().remarks[0].startswith("train: kept 1 of 4: 3 empty text (data.teach_silence")


def test_a_run_learns_to_write_nothing_on_noise(silence: Training, tmp_path: Path) -> None:
    settings = silence.settings(
        train__steps=40, train__learning_rate=1e-2, select__every_steps=40, data__teach_silence=True
    )
    watcher = Training.Watcher()
    train(settings, tmp_path / "run", watcher)
    assert any("12 of 12; 4 of them teach silence" in line for line in watcher.messages)
    request = EvaluateRequest(silence.speech / "noise.jsonl", str(silence.model), tmp_path / "run")
    record = evaluate(request, tmp_path / "eval", SilentProgress()).to_record().to_json()
    empty = record["empty_references"]
    assert (record["wer"], record["ci95"], empty["utterances"], empty["seconds"]) == (
        None, None, 4, 3.0,
    )  # fmt: skip
    before, after = empty["base"]["made_up_words"], empty["made_up_words"]
    assert before > 0
    assert after == 0
    assert empty["base"]["made_up_per_minute"] == pytest.approx(before * 20)
    assert json.loads((tmp_path / "eval" / "result.json").read_text()) == record


@pytest.mark.parametrize("teaches", [True, False])
def test_without_the_setting_such_clips_are_left_out(
    silence: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teaches: bool
) -> None:
    """Of train; replay clips have the base as teacher, and with the setting an end at once."""
    targets: list[list[int]] = []
    real = objective_module.target_batch

    def kept(texts: Any, *given: Any, **named: Any) -> Any:
        targets.extend(map(list, texts))
        return real(texts, *given, **named)

    monkeypatch.setattr(objective_module, "target_batch", kept)
    settings = silence.settings(
        "replay", train__steps=4, select__every_steps=4, retain__watched_clips=0,
        data__teach_silence=teaches,
    )  # fmt: skip
    out = tmp_path / "run"
    train(settings, out, SilentProgress())
    assert ([] in targets) is teaches
    names = {key for line in Training.lines(out) for key in line}
    assert "replay_kl" in names
    assert ("replay_loss" in names) is teaches


def test_a_dev_set_without_words_cannot_choose_an_adapter(
    silence: Training, tmp_path: Path
) -> None:
    """Fillers, which the normalizer drops."""
    lines = (silence.speech / "dev.jsonl").read_text().splitlines()
    fillers = tmp_path / "fillers.jsonl"
    fillers.write_text("".join(json.dumps(json.loads(x) | {"text": "Hmm."}) + "\n" for x in lines))
    settings = silence.settings(data__dev=str(fillers))
    with pytest.raises(RequestError, match="no reference word after the normalizer english-1"):
        train(settings, tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
