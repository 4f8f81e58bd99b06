"""The demonstration's data: a synthesized domain, general speech, and a canary of human speech."""

import math
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.io import change_tempo, load_audio, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.audio.segment import split_at_pauses
from moonshine_tune.audio.tts import DEV_VOICES, TEST_VOICES, TRAIN_VOICES
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.data.synthesis.atc_grammar import phraseology_split
from moonshine_tune.data.synthesis.corpus import synthesize_corpus
from moonshine_tune.data.synthesis.general_sentences import general_sentences
from moonshine_tune.demo.canary_recording import TWO_CITIES_SPANS
from moonshine_tune.registry.wheel import WheelAssets

NUM_TRAIN, NUM_DEV, NUM_TEST = 240, 24, 48
_VOICES_PER_SENTENCE = 2
_NUM_GENERAL = 96
_HUMAN_CUTS_S = (4.0, 6.0, 10.0)
_HUMAN_TEMPOS = (0.9, 1.0, 1.1)


@dataclass(frozen=True)
class DemoData:
    """Manifests of the demonstration.

    Attributes:
        train, dev, test: air-traffic phraseology; no voice and no sentence is in two of them.
        replay: general speech without texts, for the teacher.
        general: more of it, in other voices: the canary that the choice of the adapter sees.
        canary: a human reader; no choice is made on it.
    """

    train: Path
    dev: Path
    test: Path
    replay: Path
    general: Path
    canary: Path


def make_demo_data(
    assets: WheelAssets,
    out: Path,
    seed: int,
    progress: Progress,
    *,
    counts: tuple[int, int, int] = (NUM_TRAIN, NUM_DEV, NUM_TEST),
) -> DemoData:
    """Synthesize the domain and cut the recordings, complete or not at all.

    Args:
        counts: sentences to train on, to choose by and to test with.
    """
    train, dev, test = counts
    sentences = phraseology_split(train=train, dev=dev, test=test, seed=seed)
    general = general_sentences()
    with complete_folder(out) as scratch:
        for name, texts, voices in (
            ("train", sentences.train, TRAIN_VOICES),
            ("dev", sentences.dev, DEV_VOICES),
            ("test", sentences.test, TEST_VOICES),
            ("replay", general[:_NUM_GENERAL], TRAIN_VOICES),
            ("general", general[_NUM_GENERAL:], DEV_VOICES),
        ):
            synthesize_corpus(
                texts,
                scratch / name,
                voices=voices,
                seed=seed,
                voices_per_sentence=_VOICES_PER_SENTENCE if name == "train" else 1,
                progress=progress,
            )
        _add_recordings(scratch / "replay", (assets.beckett, assets.endgame))
        _write_canary(scratch / "canary", assets.two_cities)
    return DemoData(
        **{
            name: out / name / "manifest.jsonl"
            for name in ("train", "dev", "test", "replay", "general", "canary")
        }
    )


def _add_recordings(folder: Path, recordings: tuple[Path, ...]) -> None:
    """Human speech without transcripts beside the synthesized one: replay needs no texts.

    There is little of it, so it is heard in several cuts and tempos: the teacher answers to each.
    """
    manifest = folder / "manifest.jsonl"
    utterances = list(read_manifest(manifest, require_text=False).utterances)
    for recording in recordings:
        samples = load_audio(recording)
        for max_s in _HUMAN_CUTS_S:
            for number, (start, end) in enumerate(split_at_pauses(samples, max_s=max_s)):
                piece = samples[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)]
                for tempo in _HUMAN_TEMPOS:
                    name = f"{recording.stem}-{max_s:g}s-{number:02d}~tempo{tempo:g}"
                    path = folder / "audio" / f"{name}.wav"
                    heard = change_tempo(piece, tempo)
                    write_audio(path, heard)
                    seconds = len(heard) / SAMPLE_RATE_HZ
                    utterances.append(Utterance(name, path.resolve(), duration=seconds))
    write_manifest(manifest, utterances)


def _write_canary(folder: Path, recording: Path) -> None:
    samples = load_audio(recording)
    utterances = []
    for number, (start, end, text) in enumerate(TWO_CITIES_SPANS):
        path = folder / "audio" / f"two-cities-{number:02d}.wav"
        first, last = math.floor(start * SAMPLE_RATE_HZ), math.floor(end * SAMPLE_RATE_HZ)
        write_audio(path, samples[first:last])
        utterances.append(
            Utterance(path.stem, path.resolve(), text, speaker="reader", duration=end - start)
        )
    write_manifest(folder / "manifest.jsonl", utterances)
