"""Replay audio is cut into windows, and the encoder's states are pulled to the base's on them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests.training_runs import Training

from moonshine_tune.audio.io import load_audio
from moonshine_tune.config.resume import changed_settings, settings_as_run
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.models.base import EncoderStates
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.run import train
from moonshine_tune.training.teacher import BaseTeacher
from moonshine_tune.training.windows import VariedWindows, cut_into_windows, narrow_share

pytestmark = pytest.mark.usefixtures("one_thread")


def _dataset(*seconds: float, text: str | None = None, start: float | None = None) -> SpeechDataset:
    utterances = tuple(
        Utterance(
            id=f"clip{index}",
            audio=Path("/audio.wav"),
            text=text,
            start=start,
            end=None if start is None else start + length,
            duration=length,
        )
        for index, length in enumerate(seconds)
    )
    tokens = (tuple(range(len(text or ""))),) * len(seconds)
    return SpeechDataset(utterances, seconds, tokens, ("replay: kept",))


def test_windows_are_of_one_length_and_short_clips_stay() -> None:
    cut = cut_into_windows(_dataset(9.5, 3.0, 4.0), 4.0)
    spans = [(item.id, item.start, item.end) for item in cut.utterances]
    assert spans == [
        ("clip0#0", 0.0, 4.0),
        ("clip0#1", 4.0, 8.0),
        ("clip1", None, None),
        ("clip2#0", 0.0, 4.0),
    ]
    assert cut.seconds == (4.0, 4.0, 3.0, 4.0)
    assert len({item.id for item in cut.utterances}) == len(cut) == len(cut.tokens)
    assert cut.remarks == ("replay: kept", "replay: 4 windows of 4 s")


def test_windows_of_a_span_stay_within_it() -> None:
    cut = cut_into_windows(_dataset(8.4, start=100.0), 4.0)
    assert [(item.start, item.end) for item in cut.utterances] == [(100.0, 104.0), (104.0, 108.0)]


def test_silence_keeps_its_target_and_its_length() -> None:
    """A clip with an empty text teaches silence: a window of it would be taught by the base."""
    cut = cut_into_windows(_dataset(9.0, text=""), 4.0)
    assert [item.text for item in cut.utterances] == [""]
    assert cut.seconds == (9.0,)


def test_a_clip_with_a_text_loses_it_in_windows() -> None:
    """Nobody knows which words a window has."""
    cut = cut_into_windows(_dataset(9.0, text="some words"), 4.0)
    assert [item.text for item in cut.utterances] == [None, None]


class _Kept(BaseTeacher):
    """A teacher with these states of the base."""

    def __init__(self, states: list[torch.Tensor]) -> None:
        self._states = dict(enumerate(states))


def test_the_distance_of_the_states_does_not_depend_on_the_other_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 9, 3)
    base = [torch.randn(length, 4, generator=generator) for length in lengths]
    adapted = torch.randn(3, 9, 4, generator=generator)
    teacher = _Kept(base)
    together = teacher.states_distance_sum([0, 1, 2], EncoderStates(adapted, lengths))
    apart = [
        teacher.states_distance_sum(
            [row], EncoderStates(adapted[row : row + 1, :length], (length,))
        )
        for row, length in enumerate(lengths)
    ]
    by_hand = [
        (adapted[row, :length] - base[row]).square().sum() / base[row].square().sum()
        for row, length in enumerate(lengths)
    ]
    torch.testing.assert_close(together, sum(by_hand))
    torch.testing.assert_close(torch.stack(apart), torch.stack(by_hand))


def test_the_base_is_at_no_distance_from_itself() -> None:
    base = torch.randn(6, 4)
    distance = _Kept([base]).states_distance_sum([0], EncoderStates(base[None], (6,)))
    assert float(distance) == 0.0


@pytest.fixture(scope="module")
def pulled(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoder trains. Read only."""
    out = tmp_path_factory.mktemp("pulled") / "run"
    settings = training.settings("replay", adapter__sites="all", retain__window_s=0.8)
    train(settings, out, SilentProgress())
    return out


def test_a_run_whose_encoder_trains_logs_the_distance(pulled: Path, training: Training) -> None:
    distances = [line["replay_states"] for line in training.lines(pulled) if "loss" in line]
    # 16 bits are kept of the base's states; before the first step the adapter does nothing.
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    assert max(distances) > 1e-5
    remarks = RunFolder.open(pulled).read_record().remarks
    assert any("windows of 0.8 s" in remark for remark in remarks)


def test_a_strong_pull_keeps_the_states(pulled: Path, training: Training, tmp_path: Path) -> None:
    settings = training.settings(
        "replay", adapter__sites="all", retain__window_s=0.8, retain__encoder_weight=1000.0
    )
    train(settings, tmp_path / "run", SilentProgress())
    free, strong = (
        [line["replay_states"] for line in training.lines(out) if "loss" in line][-1]
        for out in (pulled, tmp_path / "run")
    )
    assert strong < free / 2


def test_a_frozen_encoder_has_no_distance(training: Training, tmp_path: Path) -> None:
    train(training.settings("replay", train__steps=2), tmp_path / "run", SilentProgress())
    lines = [line for line in training.lines(tmp_path / "run") if "loss" in line]
    assert all("replay_states" not in line for line in lines)
    assert all("replay_kl" in line for line in lines)


def test_a_run_of_an_earlier_version_goes_on_as_it_was_run(pulled: Path) -> None:
    """It replayed whole clips: a resume with windows would change its loss in silence."""
    settings = RunFolder.open(pulled).read_record().settings
    newer = ("window_s", "varied_share", "encoder_weight")
    earlier = {key: value for key, value in settings["retain"].items() if key not in newer}
    retain = settings_as_run(settings | {"retain": earlier})["retain"]
    assert [retain[name] for name in newer] == [0.0, 0.0, 0.0]
    changes = changed_settings(settings | {"retain": earlier}, RunSettings.model_validate(settings))
    assert {f"retain.{name}" for name in newer} == set(changes)
    assert settings_as_run(settings) == settings


def test_a_share_of_the_windows_is_varied() -> None:
    dataset = _dataset(*[1.0] * 200)
    windows = VariedWindows(dataset, 0.5, seed=3)
    varied = [windows._recipe(index) for index in range(200) if not windows._recipe(index).is_clean]
    assert 70 < len(varied) < 130
    assert {recipe.impulse_response for recipe in varied} - {None}
    assert {recipe.noise for recipe in varied} - {None}
    again = VariedWindows(dataset, 0.5, seed=3)
    assert [again._recipe(index) for index in range(200)] == [
        windows._recipe(index) for index in range(200)
    ]
    other = VariedWindows(dataset, 0.5, seed=4)
    assert any(other._recipe(index) != windows._recipe(index) for index in range(200))


def test_without_a_share_and_for_silence_nothing_is_varied() -> None:
    assert all(VariedWindows(_dataset(2.0), 0.0, seed=3)._recipe(0).is_clean for _ in range(3))
    silence = VariedWindows(_dataset(*[2.0] * 30, text=""), 1.0, seed=3)
    assert all(silence._recipe(index).is_clean for index in range(30))


def test_varied_windows_keep_their_length() -> None:
    """At another speed a voice sounds younger or older, and windows would need padding."""
    windows = VariedWindows(_dataset(*[4.0] * 50), 1.0, seed=3)
    assert set(windows.seconds) == {4.0}


def _recorded(folder: Path, rate_hz: int, count: int) -> SpeechDataset:
    """Noise like speech, as wide as the rate allows."""
    rng = np.random.default_rng(0)
    utterances = []
    for index in range(count):
        path = folder / f"{rate_hz}-{index}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(rate_hz), rate_hz)
        utterances.append(Utterance(id=str(index), audio=path, duration=1.0))
    return SpeechDataset(tuple(utterances), (1.0,) * count, ((),) * count, ())


@pytest.mark.parametrize(("rate_hz", "share"), [(8_000, 1.0), (16_000, 0.0), (44_100, 0.0)])
def test_recordings_at_8_khz_are_recognized_by_their_sound(
    tmp_path: Path, rate_hz: int, share: float
) -> None:
    assert narrow_share(_recorded(tmp_path, rate_hz, 4)) == share


def test_recordings_at_8_khz_that_were_resampled_are_recognized(tmp_path: Path) -> None:
    """Their headers say 16 kHz."""
    dataset = _recorded(tmp_path, 8_000, 2)
    for utterance in dataset.utterances:
        soundfile.write(utterance.audio, load_audio(utterance.audio), 16_000)
    assert narrow_share(dataset) == 1.0


def test_a_missing_recording_is_no_telephone(tmp_path: Path) -> None:
    assert narrow_share(_dataset(1.0, 2.0)) == 0.0


def test_replay_is_played_through_a_telephone_as_often_as_the_training_clips_are() -> None:
    dataset = _dataset(*[1.0] * 300)
    wide = VariedWindows(dataset, 1.0, seed=3)
    narrow = VariedWindows(dataset, 1.0, seed=3, narrow_share=0.9)
    shares = [
        sum(windows._recipe(index).telephone for index in range(300)) / 300
        for windows in (wide, narrow)
    ]
    assert shares == pytest.approx([0.15, 0.9], abs=0.06)
