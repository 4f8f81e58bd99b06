"""`data synth`: a spoken corpus from sentences, offline."""

import io
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.audio.tts import PERCENT_RANGE, RATE_RANGE_WPM, SpeechSynthesizer
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import complete_folder, write_json_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version, versions
from moonshine_tune.corpus.manifest import Utterance, seconds_of, write_manifest
from moonshine_tune.data.synthesis.atc_grammar import phraseology_sentences
from moonshine_tune.data.synthesis.general_sentences import general_sentences

GRAMMARS = ("atc", "general")
AUDIO_FORMATS = ("wav", "flac")


@dataclass(frozen=True)
class Delivery:
    """How sentences are spoken: each utterance draws its own values from these ranges.

    Attributes:
        rate_wpm: slowest and fastest speech, words a minute.
        pitch: lowest and highest, 0 to 100, where 50 is the voice's own.
        pitch_range: liveliness of the melody, 0 to 100, where 50 is the voice's own.
    """

    rate_wpm: tuple[int, int] = (145, 190)
    pitch: tuple[int, int] = (40, 60)
    pitch_range: tuple[int, int] = (30, 70)

    def problems(self) -> list[str]:
        """What is wrong with these ranges, in sentences."""
        found = []
        for name, bounds in (
            ("rate_wpm", RATE_RANGE_WPM),
            ("pitch", PERCENT_RANGE),
            ("pitch_range", PERCENT_RANGE),
        ):
            low, high = getattr(self, name)
            if not bounds[0] <= low <= high <= bounds[1]:
                found.append(
                    f"{name} from {low} to {high}: it must rise within {bounds[0]} to {bounds[1]}"
                )
        return found


@dataclass(frozen=True)
class SynthesisResult:
    """What was made.

    Attributes:
        manifest: its path; the recordings lie in `audio/` beside it.
        utterances: how many recordings.
        sentences: how many different sentences.
        seconds: total length of the recordings.
        voices: those that speak in it.
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

    Two draws of one seed share no sentence where the second skips what the first took.

    Args:
        file: UTF-8 text with a sentence a line; empty lines do not count, repeated ones are
            dropped and reported.
        count: how many; None for all that there are ("atc" has no end and needs a count).
        skip: how many to leave out before.

    Raises:
        RequestError: no or two sources, an unknown grammar, a file that cannot be read, or fewer
            sentences than asked for.
    """
    if (file is None) == (grammar is None):
        raise RequestError(
            "sentences come either from a file or from a grammar",
            hint=f"give --sentences FILE, or --grammar with one of: {', '.join(GRAMMARS)}",
        )
    if skip < 0 or (count is not None and count < 1):
        raise RequestError(f"{count} sentences after skipping {skip} cannot be taken")
    if file is not None:
        found = _read_sentences(file, progress)
    elif grammar == "general":
        found = general_sentences()
    elif grammar != "atc":
        raise RequestError(
            f"no grammar is called {grammar!r}", hint=f"one of: {', '.join(GRAMMARS)}"
        )
    elif count is None:
        raise RequestError("the atc grammar has no end", hint="say how many with --count 100")
    else:
        found = phraseology_sentences(skip + count, seed=seed)
    taken = found[skip:] if count is None else found[skip : skip + count]
    if not taken or (count is not None and len(taken) < count):
        wanted = "some" if count is None else f"{count}"
        raise RequestError(
            f"{wanted} sentences after skipping {skip} are wanted and there are {len(found)}",
            where=file,
            hint="lower --count or --skip",
        )
    return taken


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
    """Speak sentences into a new folder: `manifest.jsonl`, `audio/`, `synthesis.json`.

    Voices take turns; rate, pitch and melody of an utterance depend on `seed`, its sentence and
    its voice alone, so the same request gives the same files, and one more sentence at the end
    changes no other one.

    Args:
        sentences: what is said; also the transcripts.
        out: the folder, which must not exist; complete afterwards, or absent.
        voices: espeak-ng voices, as "en-us+f2"; each is a speaker of the manifest.
        voices_per_sentence: by how many of the voices each sentence is spoken.
        delivery: ranges of rate, pitch and melody.
        audio_format: "wav" or "flac", mono, 16 kHz, 16 bits.

    Raises:
        RequestError: an impossible request; all its problems are reported together.
        AudioError: a voice does not exist, or a sentence has nothing to say.
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
            for turn in range(total):
                number, voice = turn // voices_per_sentence, voices[turn % len(voices)]
                name = f"s{number + 1:05d}-{voice}"
                path = scratch / "audio" / f"{name}.{audio_format}"
                manner = _manner(delivery, f"{seed}:{voice}:{sentences[number]}")
                samples = synthesizer.speak(sentences[number], voice=voice, **manner)
                path.write_bytes(_encoded(samples, audio_format))
                utterances.append(
                    Utterance(
                        id=name,
                        audio=path,
                        text=sentences[number],
                        speaker=voice,
                        duration=round(len(samples) / SAMPLE_RATE_HZ, 4),
                        language=voice.partition("+")[0].partition("-")[0],
                        extra=dict(manner),
                    )
                )
                stage.advance()
        write_manifest(scratch / "manifest.jsonl", utterances)
        settings = {
            "voices": list(voices),
            "voices_per_sentence": voices_per_sentence,
            "seed": seed,
            "delivery": asdict(delivery),
            "audio_format": audio_format,
            "utterances": len(utterances),
            "versions": versions() | {"espeakng-loader": package_version("espeakng-loader")},
        }
        write_json_atomic(scratch / "synthesis.json", settings)
    spoken = {utterance.speaker for utterance in utterances}
    return SynthesisResult(
        manifest=out / "manifest.jsonl",
        utterances=len(utterances),
        sentences=len(set(sentences)),
        seconds=round(seconds_of(utterances), 2),
        voices=tuple(voice for voice in voices if voice in spoken),
    )


def _check(
    sentences: Sequence[str],
    voices: Sequence[str],
    voices_per_sentence: int,
    delivery: Delivery,
    audio_format: str,
) -> None:
    """Refuse an impossible request, with all that is wrong with it."""
    problems = delivery.problems()
    if not sentences:
        problems.append("there is no sentence to speak")
    if not voices:
        problems.append("there is no voice to speak with")
    if len(set(voices)) != len(voices):
        problems.append("a voice is named twice")
    if not 1 <= voices_per_sentence <= max(len(voices), 1):
        problems.append(
            f"each sentence by {voices_per_sentence} voices: there are {len(voices)} voices"
        )
    if audio_format not in AUDIO_FORMATS:
        problems.append(f"no format {audio_format!r}: one of {', '.join(AUDIO_FORMATS)}")
    if problems:
        raise ProblemsError(
            "this corpus cannot be spoken",
            problems,
            hint="see what is possible with: moonshine-tune data synth --help",
        )


def _manner(delivery: Delivery, key: str) -> dict[str, int]:
    """Rate, pitch and melody of one utterance, drawn by its own key."""
    chance = random.Random(key)
    return {
        "rate_wpm": chance.randint(*delivery.rate_wpm),
        "pitch": chance.randint(*delivery.pitch),
        "pitch_range": chance.randint(*delivery.pitch_range),
    }


def _encoded(samples: npt.NDArray[np.float32], audio_format: str) -> bytes:
    """The file's bytes: encoded in memory, so that a full disk is an ordinary OSError."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format=audio_format.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _read_sentences(path: Path, progress: Progress) -> tuple[str, ...]:
    if not path.is_file():
        raise RequestError(
            "no such file of sentences", where=path, hint="give a text file, a sentence a line"
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
        progress.say(f"kept {len(kept)} of {len(lines)} sentences: the others repeat")
    return kept
