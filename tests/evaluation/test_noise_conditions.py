"""Scoring in noise and in rooms, through a small model and through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
from moonshine_tune.evaluation.noise_conditions import ConditionsRequest, conditions_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of noise, two recordings each, and a room."""
    folder = tmp_path_factory.mktemp("sounds")
    for seed, name in enumerate(("fan/a", "fan/b", "street/a", "street/b")):
        path = folder / "noise" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(seed).standard_normal(20_000)
        soundfile.write(path, noise.astype(np.float32), 16_000)
    (folder / "rooms").mkdir()
    response = np.zeros(2_000, dtype=np.float32)
    response[10], response[900:] = 1.0, 0.05
    soundfile.write(folder / "rooms" / "room.wav", response, 16_000)
    return folder


def test_a_grid_of_noises_and_ratios(sounds: Path) -> None:
    request = ConditionsRequest(sounds / "noise", sounds / "rooms", (0.0, 10.0))
    conditions = conditions_of(request)
    assert [condition.name for condition in conditions] == [
        "clean", "room", "fan 10 dB", "fan 0 dB", "street 10 dB", "street 0 dB",
    ]  # fmt: skip
    clip = np.sin(np.arange(16_000) / 9).astype(np.float32) * 0.1
    first_clip, second_clip = Utterance("u1", Path("a")), Utterance("u2", Path("a"))
    loud, soft = conditions[3].change, conditions[2].change
    assert loud is not None and soft is not None
    # The same noise at both ratios, 10 dB apart; another utterance gets another piece.
    first, second = loud(first_clip, clip) - clip, soft(first_clip, clip) - clip
    assert np.corrcoef(first, second)[0, 1] > 0.999
    assert np.std(first) / np.std(second) == pytest.approx(10**0.5, rel=0.01)
    assert np.array_equal(loud(first_clip, clip), loud(first_clip, clip))
    assert not np.array_equal(loud(first_clip, clip), loud(second_clip, clip))


def test_a_manifest_is_scored_clean_and_under_each_condition(
    saved_v1: Path, speech_folder: Path, sounds: Path, tmp_path: Path
) -> None:
    request = EvaluateRequest(
        speech_folder / "dev.jsonl", model=str(saved_v1), device="cpu",
        conditions=ConditionsRequest(sounds / "noise", None, (5.0,)),
    )  # fmt: skip
    result = evaluate(request, tmp_path / "out", SilentProgress())
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [(item["noise"], item["snr_db"]) for item in record["conditions"]] == [
        ("clean", None), ("fan", 5.0), ("street", 5.0),
    ]  # fmt: skip
    assert record["conditions"][0]["wer"] == record["wer"]
    lines = [json.loads(line) for line in
             (tmp_path / "out" / "conditions.jsonl").read_text().splitlines()]  # fmt: skip
    assert len(lines) == 3 * len(result.scored)
    hypotheses = {(line["noise"], line["id"]): line["hypothesis"] for line in lines}
    clean = {item.id: item.hypothesis for item in result.scored}
    assert all(hypotheses["clean", name] == text for name, text in clean.items())
    assert any(hypotheses["fan", name] != text for name, text in clean.items())
    plain = evaluate(
        EvaluateRequest(speech_folder / "dev.jsonl", model=str(saved_v1), device="cpu"),
        None, SilentProgress(),
    )  # fmt: skip
    assert "conditions" not in plain.to_record().to_json()


def test_wrong_conditions_are_refused_before_the_model_is_looked_for(
    speech_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for noise, snrs, message in (
        (tmp_path / "missing", (5.0,), "no such folder of noise"),
        (tmp_path / "empty", (5.0,), "holds no audio"),
        (tmp_path / "empty", (), "--snr needs"),
    ):
        request = EvaluateRequest(
            speech_folder / "dev.jsonl", model="no-such-model",
            conditions=ConditionsRequest(noise, None, snrs),
        )  # fmt: skip
        with pytest.raises(RequestError, match=message):
            evaluate(request, None, SilentProgress())


def test_the_command_prints_the_grid(saved_v1: Path, speech_folder: Path, sounds: Path) -> None:
    command = [sys.executable, "-m", "moonshine_tune", "evaluate", "--model", str(saved_v1),
               "--manifest", str(speech_folder / "dev.jsonl"), "--device", "cpu",
               "--conditions", str(sounds / "noise"), "--snr", "10", "--snr", "0"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    heading = next(line for line in lines if line.startswith("WER %") and "0 dB" in line)
    assert heading.split() == ["WER", "%", "no", "noise", "10", "dB", "0", "dB"]
    assert any(line.startswith("fan") for line in lines)
    lonely = subprocess.run([*command[:-6], "--snr", "3"], capture_output=True, text=True,
                            check=False, env={**os.environ})  # fmt: skip
    assert lonely.returncode == 2 and "need --conditions" in lonely.stderr
