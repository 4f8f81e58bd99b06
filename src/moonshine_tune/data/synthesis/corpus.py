"""`data synth`: a synthetic speech corpus from sentences, offline."""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from moonshine_tune.audio.io import audio_info, write_audio
from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.speech_engine import EspeakEngine, Prosody
from moonshine_tune.audio.tts import PERCENT_RANGE, RATE_RANGE_WPM
from moonshine_tune.audio.voice_pool import VoicePool
from moonshine_tune.core.errors import AudioError, NegativeAnswerError, ProblemsError
from moonshine_tune.core.files import complete_folder, holds_out, write_jsonl_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version, versions
from moonshine_tune.corpus.manifest import SYNTHETIC, Utterance, seconds_of, write_manifest
from moonshine_tune.data.synthesis.judgment import Judgment, SpeechCheck, left_out_remark
from moonshine_tune.data.synthesis.prompts import Prompt
from moonshine_tune.runs.records import SynthesisRecord

LEFT_OUT_FILE = "left_out.jsonl"
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
        left_out: clips that the base model did not understand.
    """

    manifest: Path
    utterances: int
    sentences: int
    seconds: float
    voices: tuple[str, ...]
    left_out: int = 0


@dataclass(frozen=True)
class SynthesisOptions:
    """How a corpus is spoken.

    Attributes:
        seed: same seed, same recordings.
        voices_per_sentence: number of voices that speak each sentence.
        delivery: ranges of rate, pitch and melody.
        audio_format: "wav" or "flac", mono, 16 kHz, 16 bits.
    """

    seed: int = 0
    voices_per_sentence: int = 1
    delivery: Delivery = Delivery()
    audio_format: str = "wav"


@holds_out(lambda prompts, out, **options: out)
def synthesize_corpus(
    prompts: Sequence[str | Prompt],
    out: Path,
    *,
    voices: Sequence[str],
    options: SynthesisOptions | None = None,
    pool: VoicePool | None = None,
    check: SpeechCheck | None = None,
    progress: Progress,
) -> SynthesisResult:
    """Synthesize sentences into a new folder: `manifest.jsonl`, `audio/`, `synthesis.json`.

    Voices alternate. Rate, pitch and melody of an utterance depend on the seed, its sentence and
    its voice alone, so the same request gives the same files, and one more sentence at the end
    changes no other. What a slow engine has spoken is kept beside `out` until the folder is
    complete: the same command continues a stopped one.

    Args:
        prompts: the texts to speak, and the transcripts.
        out: the folder, which must not exist; complete afterwards, or absent.
        voices: such as "en-us+f2" or "flite:slt"; each is a speaker of the manifest.
        pool: open engines; None opens espeak-ng.
        check: leaves clips out that the base model does not understand, in `left_out.jsonl`.

    Raises:
        RequestError: an impossible request; all its problems are reported together.
        AudioError: a voice does not exist, or a sentence has no words.
        NegativeAnswerError: no clip was understood.
        MachineError: an engine does not work here, or the disk is full.
    """
    options = options or SynthesisOptions()
    chosen = [item if isinstance(item, Prompt) else Prompt(item) for item in prompts]
    _check(chosen, voices, options)
    with ExitStack() as stack:
        if pool is None:
            pool = stack.enter_context(VoicePool.open([EspeakEngine.name], progress))
        for voice in voices:
            pool.check_voice(voice)
        voices = tuple(dict.fromkeys(map(pool.speaker_of, voices)))
        folder = stack.enter_context(complete_folder(out)).resolve()
        store = _ClipStore(out, options.audio_format)
        clips = _speak_all(chosen, voices, options, store, pool, progress)
        (folder / "audio").mkdir()
        utterances = []
        for clip in clips:
            path = folder / "audio" / f"{clip.utterance.id}.{options.audio_format}"
            # A copy: two equal prompts have one clip in the store.
            shutil.copyfile(clip.utterance.audio, path)
            utterances.append(replace(clip.utterance, audio=path))
        if not pool.is_slow:
            store.remove()
        kept, judgments = _checked(utterances, chosen, clips, check, progress)
        if judgments:
            records = [item.to_record() for item in judgments]
            write_jsonl_atomic(folder / LEFT_OUT_FILE, records)
        write_manifest(folder / "manifest.jsonl", kept)
        speakers = {utterance.speaker for utterance in kept}
        used = tuple(voice for voice in voices if voice in speakers)
        _write_record(folder, options, voices, kept, judgments, pool)
    store.remove()
    return SynthesisResult(
        manifest=out / "manifest.jsonl",
        utterances=len(kept),
        sentences=len({utterance.text for utterance in kept}),
        seconds=round(seconds_of(kept), 2),
        voices=used,
        left_out=len(judgments),
    )


@dataclass(frozen=True)
class _Clip:
    """A clip that was spoken, and the number of its prompt."""

    utterance: Utterance
    prompt: int


class _ClipStore:
    """Clips that are spoken already, by what was asked of the engine, in a folder beside `out`."""

    def __init__(self, out: Path, audio_format: str) -> None:
        self._folder = out.parent / f".{out.name}.spoken"
        self._format = audio_format

    def path(self, request: Sequence[object]) -> Path:
        """The file of a request."""
        digest = hashlib.sha256(json.dumps(request, ensure_ascii=False).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.{self._format}"

    def write(self, path: Path, samples: Samples) -> None:
        """Write a clip, complete or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.stem}.part.{self._format}")
        write_audio(scratch, samples)
        scratch.replace(path)

    def remove(self) -> None:
        """Remove what is left."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _speak_all(
    prompts: Sequence[Prompt],
    voices: Sequence[str],
    options: SynthesisOptions,
    store: _ClipStore,
    pool: VoicePool,
    progress: Progress,
) -> list[_Clip]:
    """Speak every prompt; the clips are in the store, in the order of the prompts.

    One voice after the other, because an engine may hold one at a time.
    """
    total = len(prompts) * options.voices_per_sentence
    labels = _file_labels(voices)
    clips: dict[int, _Clip] = {}
    num_known = 0
    try:
        with progress.stage("synthesizing", total) as stage:
            for index in sorted(range(total), key=lambda index: (index % len(voices), index)):
                voice_number, number = index % len(voices), index // options.voices_per_sentence
                voice, prompt = voices[voice_number], prompts[number]
                engine, own_name = pool.engine_of(voice)
                prosody = _draw_prosody(options.delivery, f"{options.seed}:{voice}:{prompt.text}")
                used = {name: getattr(prosody, name) for name in engine.uses}
                path = store.path(
                    [engine.name, engine.version, own_name, used, prompt.spoken_text, options.seed]
                )
                known = path.is_file()
                num_known += known
                if not known:
                    store.write(path, pool.speak(prompt.spoken_text, voice, prosody))
                spoken = {"spoken": prompt.spoken} if prompt.spoken else {}
                utterance = Utterance(
                    id=f"s{number + 1:05d}-{labels[voice_number]}",
                    audio=path,
                    text=prompt.text,
                    speaker=voice,
                    duration=round(audio_info(path).seconds, 4),
                    language=engine.language_of(own_name),
                    extra={SYNTHETIC: True, "engine": engine.name, **used, **spoken},
                )
                clips[index] = _Clip(utterance, number)
                stage.advance()
    except AudioError:
        # The request must change; what a fast engine spoke is spoken again in a moment.
        if not pool.is_slow:
            store.remove()
        raise
    if num_known:
        progress.say(f"{num_known} of {total} clips were spoken before the last command stopped")
    return [clips[index] for index in range(total)]


def _file_labels(speakers: Sequence[str]) -> list[str]:
    """A different part of a file name for each voice."""
    labels: list[str] = []
    for speaker in speakers:
        label = re.sub(r"[^\w+.-]+", "-", speaker).strip(".-")[-60:] or "voice"
        while label in labels:
            label += "-2"
        labels.append(label)
    return labels


def _checked(
    utterances: Sequence[Utterance],
    prompts: Sequence[Prompt],
    clips: Sequence[_Clip],
    check: SpeechCheck | None,
    progress: Progress,
) -> tuple[list[Utterance], list[Judgment]]:
    """The clips to keep, and the judgments of the others, whose files are removed."""
    if check is None:
        return list(utterances), []
    terms = [prompts[clip.prompt].terms for clip in clips]
    judgments = check(utterances, terms, progress)
    left_out = {item.id: item for item in judgments if not item.is_understood}
    kept = [item for item in utterances if item.id not in left_out]
    if not kept:
        worst = next(iter(left_out.values()))
        raise NegativeAnswerError(
            f"the base model understands none of {len(utterances)} clips, such as {worst.text!r}, "
            f"of which it writes {worst.hypothesis!r}",
            hint="listen to some with --no-check, and take other --voices or another --engine",
        )
    for item in utterances:
        if item.id in left_out:
            item.audio.unlink()
    if left_out:
        progress.say(left_out_remark(utterances, left_out))
    return kept, list(left_out.values())


def _write_record(
    folder: Path,
    options: SynthesisOptions,
    voices: Sequence[str],
    kept: Sequence[Utterance],
    left_out: Sequence[Judgment],
    pool: VoicePool,
) -> None:
    SynthesisRecord(
        voices=list(voices),
        voices_per_sentence=options.voices_per_sentence,
        seed=options.seed,
        delivery=asdict(options.delivery),
        audio_format=options.audio_format,
        utterances=len(kept),
        left_out=len(left_out),
        engines=pool.versions,
        versions=versions() | {"espeakng-loader": package_version("espeakng-loader")},
    ).write(folder / "synthesis.json")


def _check(prompts: Sequence[Prompt], voices: Sequence[str], options: SynthesisOptions) -> None:
    """Refuse an impossible request, with all its problems."""
    problems = options.delivery.problems()
    if not prompts:
        problems.append("there is no sentence")
    if not voices:
        problems.append("there is no voice")
    if len(set(voices)) != len(voices):
        problems.append("a voice is named twice")
    if not 1 <= options.voices_per_sentence <= max(len(voices), 1):
        problems.append(
            f"each sentence by {options.voices_per_sentence} voices, but there are {len(voices)} "
            "voices"
        )
    if options.audio_format not in AUDIO_FORMATS:
        problems.append(f"no format {options.audio_format!r}: one of {', '.join(AUDIO_FORMATS)}")
    if problems:
        raise ProblemsError(
            "cannot synthesize this corpus",
            problems,
            hint="the possible values: moonshine-tune data synth --help",
        )


def _draw_prosody(delivery: Delivery, key: str) -> Prosody:
    """Rate, pitch and melody of one utterance, drawn with its own key."""
    rng = random.Random(key)
    return Prosody(
        rate_wpm=rng.randint(*delivery.rate_wpm),
        pitch=rng.randint(*delivery.pitch),
        pitch_range=rng.randint(*delivery.pitch_range),
    )
