"""`data synth`: a synthetic speech corpus from sentences, offline."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moonshine_tune.audio.io import write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.audio.tts import PERCENT_RANGE, RATE_RANGE_WPM, SpeechSynthesizer
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import complete_folder, holds_out
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version, versions
from moonshine_tune.corpus.manifest import Utterance, seconds_of, write_manifest
from moonshine_tune.data.synthesis.atc_grammar import phraseology_sentences
from moonshine_tune.data.synthesis.general_sentences import general_sentences
from moonshine_tune.runs.records import SynthesisRecord

GRAMMARS = ("atc", "general")
AUDIO_FORMATS = ("wav", "flac")


@dataclass(frozen=True)
class Delivery:
    """How sentences are spoken: every utterance draws its values from these ranges.

    Attributes:
        rate_wpm: slowest and fastest speech, words per minute.
        pitch: lowest and highest, 0 to 100, where 50 is the voice's own.
        pitch_range: liveliness of the melody, 0 to 100, where 50 is the voice's own.
    """

    rate_wpm: tuple[int, int] = (145, 190)
    pitch: tuple[int, int] = (40, 60)
    pitch_range: tuple[int, int] = (30, 70)

    def problems(self) -> list[str]:
        """The problems of these ranges, in sentences."""
        problems = []
        for name, bounds in (
            ("rate_wpm", RATE_RANGE_WPM),
            ("pitch", PERCENT_RANGE),
            ("pitch_range", PERCENT_RANGE),
        ):
            low, high = getattr(self, name)
            if not bounds[0] <= low <= high <= bounds[1]:
                problems.append(
                    f"{name} from {low} to {high}: it must rise within {bounds[0]} to {bounds[1]}"
                )
        return problems


@dataclass(frozen=True)
class SynthesisResult:
    """A synthesized corpus.

    Attributes:
        manifest: its path; the recordings are in `audio/` beside it.
        utterances: number of recordings.
        sentences: number of distinct sentences.
        seconds: total length of the recordings.
        voices: the voices that speak.
    """

    manifest: Path
    utterances: int
    sentences: int
    seconds: float
    voices: tuple[str, ...]


def choose_sentences(
    *,
    file: Path | None = None,
    grammar: str | None = None,
    count: int | None = None,
    skip: int = 0,
    seed: int = 0,
    progress: Progress,
) -> tuple[str, ...]:
    """Distinct sentences from a text file, or from a grammar: "atc" or "general".

    Two calls with one seed share no sentence if the second skips as many as the first took.

    Args:
        file: UTF-8 text with one sentence per line; empty lines do not count, repeated ones are
            dropped and reported.
        count: number of sentences; None for all ("atc" is unlimited and needs a count).
        skip: number of sentences to skip first.

    Raises:
        RequestError: no or two sources, an unknown grammar, a file that cannot be read, or too few
            sentences.
    """
    if (file is None) == (grammar is None):
        raise RequestError(
            "sentences come either from a file or from a grammar",
            hint=f"give --sentences FILE, or --grammar with one of: {', '.join(GRAMMARS)}",
        )
    if skip < 0 or (count is not None and count < 1):
        raise RequestError(f"cannot take {count} sentences after skipping {skip}")
    if file is not None:
        sentences = _read_sentences(file, progress)
    elif grammar == "general":
        sentences = general_sentences()
    elif grammar != "atc":
        raise RequestError(
            f"no grammar is called {grammar!r}", hint=f"one of: {', '.join(GRAMMARS)}"
        )
    elif count is None:
        raise RequestError("the atc grammar is unlimited", hint="give a number with --count 100")
    else:
        sentences = phraseology_sentences(skip + count, seed=seed)
    taken = sentences[skip:] if count is None else sentences[skip : skip + count]
    if not taken or (count is not None and len(taken) < count):
        wanted = "some" if count is None else f"{count}"
        raise RequestError(
            f"cannot take {wanted} sentences after skipping {skip}: there are {len(sentences)}",
            where=file,
            hint="lower --count or --skip",
        )
    return taken


@holds_out(lambda sentences, out, **options: out)
def synthesize_corpus(
    sentences: Sequence[str],
    out: Path,
    *,
    voices: Sequence[str],
    seed: int = 0,
    voices_per_sentence: int = 1,
    delivery: Delivery | None = None,
    audio_format: str = "wav",
    progress: Progress,
) -> SynthesisResult:
    """Synthesize sentences into a new folder: `manifest.jsonl`, `audio/`, `synthesis.json`.

    Voices alternate. Rate, pitch and melody of an utterance depend on `seed`, its sentence and its
    voice alone, so the same request gives the same files, and one more sentence at the end changes
    no other.

    Args:
        sentences: the texts to speak, and the transcripts.
        out: the folder, which must not exist; complete afterwards, or absent.
        voices: espeak-ng voices, such as "en-us+f2"; each is a speaker of the manifest.
        voices_per_sentence: number of voices that speak each sentence.
        delivery: ranges of rate, pitch and melody.
        audio_format: "wav" or "flac", mono, 16 kHz, 16 bits.

    Raises:
        RequestError: an impossible request; all its problems are reported together.
        AudioError: a voice does not exist, or a sentence has no words.
        MachineError: espeak-ng does not load here, or the disk is full.
    """
    delivery = delivery or Delivery()
    _check(sentences, voices, voices_per_sentence, delivery, audio_format)
    utterances: list[Utterance] = []
    with SpeechSynthesizer() as synthesizer, complete_folder(out) as folder:
        for voice in voices:
            synthesizer.check_voice(voice)
        scratch = folder.resolve()
        (scratch / "audio").mkdir()
        total = len(sentences) * voices_per_sentence
        with progress.stage("synthesizing", total) as stage:
            for index in range(total):
                number, voice = index // voices_per_sentence, voices[index % len(voices)]
                name = f"s{number + 1:05d}-{voice}"
                path = scratch / "audio" / f"{name}.{audio_format}"
                prosody = _draw_prosody(delivery, f"{seed}:{voice}:{sentences[number]}")
                samples = synthesizer.speak(sentences[number], voice=voice, **prosody)
                write_audio(path, samples)
                utterances.append(
                    Utterance(
                        id=name,
                        audio=path,
                        text=sentences[number],
                        speaker=voice,
                        duration=round(len(samples) / SAMPLE_RATE_HZ, 4),
                        language=voice.partition("+")[0].partition("-")[0],
                        extra=dict(prosody),
                    )
                )
                stage.advance()
        write_manifest(scratch / "manifest.jsonl", utterances)
        record = SynthesisRecord(
            voices=list(voices),
            voices_per_sentence=voices_per_sentence,
            seed=seed,
            delivery=asdict(delivery),
            audio_format=audio_format,
            utterances=len(utterances),
            versions=versions() | {"espeakng-loader": package_version("espeakng-loader")},
        )
        record.write(scratch / "synthesis.json")
    speakers = {utterance.speaker for utterance in utterances}
    return SynthesisResult(
        manifest=out / "manifest.jsonl",
        utterances=len(utterances),
        sentences=len(set(sentences)),
        seconds=round(seconds_of(utterances), 2),
        voices=tuple(voice for voice in voices if voice in speakers),
    )


def _check(
    sentences: Sequence[str],
    voices: Sequence[str],
    voices_per_sentence: int,
    delivery: Delivery,
    audio_format: str,
) -> None:
    """Refuse an impossible request, with all its problems."""
    problems = delivery.problems()
    if not sentences:
        problems.append("there is no sentence")
    if not voices:
        problems.append("there is no voice")
    if len(set(voices)) != len(voices):
        problems.append("a voice is named twice")
    if not 1 <= voices_per_sentence <= max(len(voices), 1):
        problems.append(
            f"each sentence by {voices_per_sentence} voices, but there are {len(voices)} voices"
        )
    if audio_format not in AUDIO_FORMATS:
        problems.append(f"no format {audio_format!r}: one of {', '.join(AUDIO_FORMATS)}")
    if problems:
        raise ProblemsError(
            "cannot synthesize this corpus",
            problems,
            hint="the possible values: moonshine-tune data synth --help",
        )


def _draw_prosody(delivery: Delivery, key: str) -> dict[str, int]:
    """Rate, pitch and melody of one utterance, drawn with its own key."""
    rng = random.Random(key)
    return {
        "rate_wpm": rng.randint(*delivery.rate_wpm),
        "pitch": rng.randint(*delivery.pitch),
        "pitch_range": rng.randint(*delivery.pitch_range),
    }


def _read_sentences(path: Path, progress: Progress) -> tuple[str, ...]:
    if not path.is_file():
        raise RequestError(
            "no such file of sentences", where=path, hint="give a text file, one sentence per line"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 text (byte {error.start})", where=path) from error
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise RequestError("the file has no sentences", where=path)
    kept = tuple(dict.fromkeys(lines))
    if len(kept) < len(lines):
        progress.say(f"kept {len(kept)} of {len(lines)} sentences: the others are repeated")
    return kept
