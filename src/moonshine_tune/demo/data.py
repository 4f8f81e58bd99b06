"""The demonstration's data: a synthesized domain, general speech, and a canary of human speech."""

import math
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.audio.tts import DEV_VOICES, TEST_VOICES, TRAIN_VOICES
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import SET_KEY, Utterance, read_manifest, write_manifest
from moonshine_tune.data.replay_audio import recording_pieces
from moonshine_tune.data.synthesis.atc_grammar import phraseology_split
from moonshine_tune.data.synthesis.corpus import SynthesisOptions, synthesize_corpus
from moonshine_tune.data.synthesis.general_sentences import general_sentences
from moonshine_tune.registry.wheel import WheelAssets

_COUNTS = (240, 24, 48)
_VOICES_PER_SENTENCE = 2
_NUM_GENERAL = 96
_HUMAN_CUTS_S = (4.0, 6.0, 10.0)
_HUMAN_TEMPOS = (0.9, 1.0, 1.1)

# The canary of the scores. That of the choice of the adapter is synthesized: `general`.
HUMAN_CANARY = "two_cities"
# It is `two_cities.wav` (44.4 s, one reader, 48 kHz), which comes with the package
# moonshine-voice: the opening sentence of A Tale of Two Cities by Charles Dickens (1859, public
# domain), read in full. `split_at_pauses` makes these cuts, each in the middle of a pause of more
# than half a second; the last two seconds are silence. The spans are written down so that the
# reference stays the same when the cutting changes. Shorter pieces are a worse canary: Moonshine
# tiny then flips whole words when a cut moves by 20 ms (6 to 11 errors in 10 pieces, 3 to 8 in
# these 5).
# (start in seconds, end in seconds, text)
TWO_CITIES_SPANS: tuple[tuple[float, float, str], ...] = (
    (0.00, 8.50, "It was the best of times, it was the worst of times, it was the age of wisdom, "
     "it was the age of foolishness,"),
    (8.50, 17.12, "it was the epoch of belief, it was the epoch of incredulity, it was the season "
     "of Light, it was the season of Darkness,"),
    (17.12, 24.32, "it was the spring of hope, it was the winter of despair, we had everything "
     "before us, we had nothing before us,"),
    (24.32, 32.50, "we were all going direct to Heaven, we were all going direct the other way—in "
     "short, the period was so far like the present period,"),
    (32.50, 42.26, "that some of its noisiest authorities insisted on its being received, for good "
     "or for evil, in the superlative degree of comparison only."),
)  # fmt: skip


@dataclass(frozen=True)
class DemoData:
    """Manifests of the demonstration.

    Attributes:
        train, dev, test: air-traffic phraseology; no voice and no sentence is in two of them.
        replay: general speech without transcripts, for the teacher.
        general: more of it, in other voices: the canary for the choice of the adapter.
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
    counts: tuple[int, int, int] = _COUNTS,
) -> DemoData:
    """Synthesize the domain and cut the recordings, complete or not at all.

    Args:
        counts: sentences of the training, dev and test set.
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
                options=SynthesisOptions(
                    seed=seed,
                    voices_per_sentence=_VOICES_PER_SENTENCE if name == "train" else 1,
                ),
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
    """Add human speech without transcripts to the synthesized speech: replay needs none.

    There is little of it, so it comes in several cuts and tempos, each with its own teacher output.
    """
    manifest = folder / "manifest.jsonl"
    utterances = list(read_manifest(manifest, require_text=False).utterances)
    utterances += recording_pieces(recordings, folder / "audio", _HUMAN_CUTS_S, _HUMAN_TEMPOS)
    write_manifest(manifest, utterances)


def _write_canary(folder: Path, recording: Path) -> None:
    samples = load_audio(recording)
    utterances = []
    for number, (start, end, text) in enumerate(TWO_CITIES_SPANS):
        path = folder / "audio" / f"two-cities-{number:02d}.wav"
        first, last = math.floor(start * SAMPLE_RATE_HZ), math.floor(end * SAMPLE_RATE_HZ)
        write_audio(path, samples[first:last])
        utterances.append(
            Utterance(
                path.stem,
                path.resolve(),
                text,
                speaker="reader",
                duration=end - start,
                extra={SET_KEY: HUMAN_CANARY},
            )
        )
    write_manifest(folder / "manifest.jsonl", utterances)
