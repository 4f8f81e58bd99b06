"""Recorded speech: the short version of `make acceptance`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.registry.resolve import ResolvedModel

# `make acceptance` runs it.
pytestmark = [pytest.mark.real_model, pytest.mark.shared_data, pytest.mark.slow]


def _subset(source: Path, target: Path, stride: int) -> Path:
    utterances = read_manifest(source, require_text=False).utterances[::stride]
    write_manifest(target, [replace(item, split=None) for item in utterances])
    return target


def test_an4_is_learnt_in_a_minute_without_losing_general_speech(
    shared_data: Path,
    real_tiny: ResolvedModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = _subset(shared_data / "an4" / "train.jsonl", tmp_path / "train.jsonl", 4)
    test = _subset(shared_data / "an4" / "test.jsonl", tmp_path / "test.jsonl", 2)
    replay = _subset(shared_data / "replay_audio" / "manifest.jsonl", tmp_path / "replay.jsonl", 8)
    canary = _subset(
        shared_data / "librispeech_other" / "manifest.jsonl", tmp_path / "canary.jsonl", 3
    )
    code = run(
        ["train", "--preset", "tiny", "--train", str(train), "--replay", str(replay),
         "--out", str(tmp_path / "run"), "--set", "train.steps=32",
         "--set", "train.learning_rate=1e-3", "--set", "select.every_steps=32",
         "--set", "select.max_dev_utterances=16", "--set", "retain.clips_per_step=2"]
    )  # fmt: skip
    assert code == 0
    results = {}
    for name, manifest in (("test", test), ("canary", canary)):
        capsys.readouterr()
        words = ["evaluate", "--adapter", str(tmp_path / "run"), "--manifest", str(manifest)]
        assert run([*words, "--json"]) == 0
        results[name] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert results["test"]["base"]["wer"] > 15
    assert results["test"]["wer"] < 6
    assert results["test"]["comparison"]["verdict"] == "better"
    assert results["canary"]["comparison"]["difference"] < 4
