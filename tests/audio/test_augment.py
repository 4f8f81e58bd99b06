"""Augmentation: the effect of each effect on a clip, and recipes that depend on the seed alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from moonshine_tune.audio.augment import Augmenter, EffectProbabilities, Recipe
from moonshine_tune.audio.effects import (
    add_noise,
    add_reverberation,
    apply_telephone,
    change_gain,
    clip_peaks,
    loop_noise,
    mask_spans,
    speech_power,
)
from moonshine_tune.audio.noise_bank import open_noise_bank
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import ProblemsError, RequestError

MakeClip = Callable[..., Samples]

_ALL = EffectProbabilities(noise=1.0, impulse_response=1.0, gain=1.0, speed=1.0, telephone=1.0,
                           clipping=1.0, masking=1.0)  # fmt: skip


def _speech(make_clip: MakeClip) -> Samples:
    """A second of sound between two half seconds of silence."""
    silence = np.zeros(8_000, dtype=np.float32)
    return np.concatenate([silence, 0.3 * make_clip(1.0, 1), silence])


def _noise(seconds: float, seed: int = 5) -> Samples:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * 16_000))).astype(np.float32)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three noises in two folders, and an impulse response."""
    noise, responses = tmp_path / "noise", tmp_path / "rooms"
    for name in ("street/a.wav", "street/b.flac", "hall/c.wav"):
        (noise / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(noise / name, _noise(0.7, len(name)), 16_000)
    responses.mkdir()
    response = np.zeros(4_000, dtype=np.float32)
    response[40], response[400::200] = 1.0, 0.2
    soundfile.write(responses / "room.wav", response, 16_000)
    return noise, responses


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_the_snr_refers_to_the_speech_and_not_to_its_pauses(
    make_clip: MakeClip, snr_db: float
) -> None:
    clip, noise = _speech(make_clip), _noise(2.0)
    mixed = add_noise(clip, noise, snr_db)
    added = mixed - clip
    ratio = 10 * np.log10(speech_power(clip) / np.mean(np.square(added, dtype=np.float64)))
    assert ratio == pytest.approx(snr_db, abs=0.1)
    longer = np.concatenate([clip, np.zeros(64_000, dtype=np.float32)])
    assert speech_power(longer) == pytest.approx(speech_power(clip), rel=1e-3)


def test_a_silent_clip_and_a_silent_noise_change_nothing(make_clip: MakeClip) -> None:
    clip = _speech(make_clip)
    assert np.array_equal(add_noise(clip, np.zeros_like(clip), 5.0), clip)
    silent = np.zeros(16_000, dtype=np.float32)
    assert np.array_equal(add_noise(silent, _noise(1.0), 5.0), silent)


def test_a_loud_mixture_stays_within_full_scale(make_clip: MakeClip) -> None:
    mixed = add_noise(_speech(make_clip), _noise(2.0), -20.0)
    assert np.abs(mixed).max() <= 1.0


def test_a_short_noise_repeats() -> None:
    noise = np.arange(5, dtype=np.float32)
    assert loop_noise(noise, 7, 3).tolist() == [3, 4, 0, 1, 2, 3, 4]


def test_reverberation_keeps_length_timing_and_loudness(make_clip: MakeClip) -> None:
    clip = _speech(make_clip)
    response = np.zeros(8_000, dtype=np.float32)
    response[32], response[3_000] = 0.8, 0.4
    wet = add_reverberation(clip, response)
    assert wet.shape == clip.shape and wet.dtype == np.float32
    assert speech_power(wet) == pytest.approx(speech_power(clip), rel=0.02)
    # The direct sound is where it was; the echo fills the pause after it.
    assert np.abs(wet[:7_900]).max() < 1e-4
    assert np.abs(wet[24_100:27_000]).max() > 0.05
    only_direct = np.zeros(100, dtype=np.float32)
    only_direct[32] = 0.5
    assert np.allclose(add_reverberation(clip, only_direct), clip, atol=1e-5)


def test_a_telephone_removes_frequencies_outside_its_band() -> None:
    time = np.arange(16_000) / 16_000

    def level(pitch: float) -> float:
        tone = (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
        result = apply_telephone(tone)
        assert result.shape == tone.shape and result.dtype == np.float32
        return float(np.sqrt(np.mean(result[2_000:14_000] ** 2)) / np.sqrt(np.mean(tone**2)))

    assert level(1_000) == pytest.approx(1.0, abs=0.05)
    assert level(100) < 0.05
    assert level(5_000) < 0.05


def test_gain_clipping_and_drop_outs(make_clip: MakeClip) -> None:
    clip = make_clip(1.0, 3)
    assert np.allclose(change_gain(clip, -6.0206), clip / 2, atol=1e-4)
    cut = clip_peaks(clip, 0.1)
    ceiling = np.abs(cut).max()
    assert np.mean(np.abs(cut) >= ceiling - 1e-6) == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(cut[np.abs(clip) < ceiling], clip[np.abs(clip) < ceiling])
    masked = mask_spans(clip, [(0.5, 0.05)])
    assert np.abs(masked[8_100:8_700]).max() == 0.0
    assert np.array_equal(masked[:7_990], clip[:7_990])
    assert np.array_equal(masked[8_810:], clip[8_810:])
    assert clip.flags.writeable and not np.shares_memory(masked, clip)


def test_a_recipe_depends_on_seed_utterance_and_version_alone(
    folders: tuple[Path, Path], make_clip: MakeClip
) -> None:
    noises, responses = open_noise_bank(folders[0], "noise"), open_noise_bank(folders[1], "rooms")
    first, again, reseeded = (
        Augmenter(_ALL, noises=noises, impulse_responses=responses, seed=seed) for seed in (4, 4, 5)
    )
    recipe = first.recipe("u1", 2)
    assert recipe == again.recipe("u1", 2)
    assert recipe.key() == again.recipe("u1", 2).key()
    assert len({recipe.key(), reseeded.recipe("u1", 2).key(), first.recipe("u2", 2).key(),
                first.recipe("u1", 3).key()}) == 4  # fmt: skip
    clip = make_clip(1.2, 7)
    before = clip.copy()
    augmented = recipe.apply(clip)
    assert np.array_equal(augmented, again.recipe("u1", 2).apply(clip))
    assert np.array_equal(clip, before), "the clip itself is never changed"
    assert augmented.dtype == np.float32 and np.isfinite(augmented).all()
    assert len(augmented) / 16_000 == pytest.approx(recipe.seconds(1.2), abs=0.001)


def test_the_key_of_a_recipe_never_changes(folders: tuple[Path, Path]) -> None:
    """Stored encoder states are named by it."""
    recipe = Recipe(impulse_response=open_noise_bank(folders[1], "rooms").sounds[0], snr_db=5.0)
    assert recipe.key() == (
        "[('clipping', 0.0), ('gain_db', 0.0), ('masks', ()), ('noise', None), "
        f"('noise_start', 0.0), ('room', '{recipe.impulse_response.sha256}'), "
        "('snr_db', 5.0), ('speed', 1.0), ('telephone', False)]"
    )


def _noise_only(folders: tuple[Path, Path], seed: int, **probabilities: Any) -> Augmenter:
    noises = open_noise_bank(folders[0], "noise")
    settings = EffectProbabilities(**probabilities)
    return Augmenter(settings, noises=noises, impulse_responses=None, seed=seed)


def test_a_changed_probability_leaves_the_other_draws_as_they_were(
    folders: tuple[Path, Path],
) -> None:
    noise, noise_and_gain = (
        _noise_only(folders, 1, noise=1.0, gain=gain_probability) for gain_probability in (0.0, 1.0)
    )
    for number in range(20):
        first, second = (each.recipe(f"u{number}", 1) for each in (noise, noise_and_gain))
        assert (first.noise, first.snr_db) == (second.noise, second.snr_db)
        assert second.gain_db != 0.0


def test_draws_follow_their_probabilities_and_ranges(folders: tuple[Path, Path]) -> None:
    augmenter = _noise_only(
        folders, 0, noise=0.5, speed=0.25, snr_db=(3.0, 9.0), speeds=(0.95, 1.05)
    )
    recipes = [augmenter.recipe(f"u{number}", 1) for number in range(1_000)]
    noisy = [recipe for recipe in recipes if recipe.noise]
    assert len(noisy) == pytest.approx(500, abs=60)
    assert {recipe.noise.name for recipe in noisy if recipe.noise} == {
        "hall/c.wav", "street/a.wav", "street/b.flac",
    }  # fmt: skip
    assert all(3.0 <= recipe.snr_db <= 9.0 for recipe in noisy)
    fast = [recipe.speed for recipe in recipes if recipe.speed != 1.0]
    assert len(fast) == pytest.approx(250, abs=60)
    assert 0.95 <= min(fast) < 0.97 and 1.03 < max(fast) <= 1.05
    assert all(recipe.impulse_response is None for recipe in recipes)
    clean = _noise_only(folders, 0).recipe("u", 1)
    assert clean.is_clean and clean == Recipe()


def test_sounds_have_names_groups_and_a_fingerprint_of_their_content(
    folders: tuple[Path, Path],
) -> None:
    bank = open_noise_bank(folders[0], "noise")
    assert [(sound.name, sound.group) for sound in bank.sounds] == [
        ("hall/c.wav", "hall"), ("street/a.wav", "street"), ("street/b.flac", "street"),
    ]  # fmt: skip
    assert open_noise_bank(folders[0], "noise").fingerprint == bank.fingerprint
    soundfile.write(folders[0] / "hall/c.wav", _noise(0.5, 77), 16_000)
    assert open_noise_bank(folders[0], "noise").fingerprint != bank.fingerprint


def test_sounds_can_be_listed_in_a_manifest(folders: tuple[Path, Path]) -> None:
    lines = '{"id": "x", "audio": "street/a.wav", "category": "cars"}\n'
    listed = folders[0] / "held-out.jsonl"
    listed.write_text(lines, encoding="utf-8")
    bank = open_noise_bank(listed, "noise")
    assert [(sound.name, sound.group) for sound in bank.sounds] == [("x", "cars")]


def test_folders_without_usable_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder of noises"):
        open_noise_bank(tmp_path / "missing", "noise")
    (tmp_path / "notes.txt").write_text("not audio")
    with pytest.raises(RequestError, match="folder of impulse responses holds no audio") as caught:
        open_noise_bank(tmp_path, "rooms")
    assert "augment.rooms" in str(caught.value.hint)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "silent.wav", np.zeros(800, dtype=np.float32), 16_000)
    with pytest.raises(ProblemsError, match="2 of 2 noises cannot be used") as problems:
        open_noise_bank(tmp_path, "noise")
    assert any("broken.wav" in line for line in problems.value.problems)
    assert any("silent.wav: silent" in line for line in problems.value.problems)
