"""`moonshine-tune data synth`: a synthetic speech corpus from sentences."""

import re
from pathlib import Path
from typing import Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show
from moonshine_tune.core.errors import RequestError

_EPILOG = (
    "Example: moonshine-tune data synth --grammar atc --count 60 --voice-set train --out atc-train"
    " ; a test set that shares no sentence and no voice with it: moonshine-tune data synth"
    " --grammar atc --skip 60 --count 40 --voice-set test --out atc-test"
)


def register(app: typer.Typer) -> None:
    """Add the command `synth` to the `data` commands."""
    app.command("synth", epilog=_EPILOG)(synth)


def synth(
    out: Annotated[Path, typer.Option(help="New folder for manifest.jsonl and audio/.")],
    sentences: Annotated[
        Path | None, typer.Option(help="Text file, UTF-8, one sentence per line.")
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(help="atc: air-traffic phraseology; general: everyday English."),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Number of sentences; default: all.")] = None,
    skip: Annotated[int, typer.Option(help="Skip this many sentences first.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same sentences and recordings.")] = 0,
    voice_set: Annotated[
        str, typer.Option(help="train, dev, test (no voice in two of them) or all.")
    ] = "all",
    voices: Annotated[
        str | None,
        typer.Option(help="Your own voices instead, with commas: en-us,en-us+f2,en-gb+m3."),
    ] = None,
    voices_per_sentence: Annotated[
        int, typer.Option(help="Number of voices that speak each sentence.")
    ] = 1,
    rate: Annotated[str, typer.Option(help="Slowest-fastest speech, words a minute.")] = "145-190",
    pitch: Annotated[str, typer.Option(help="Lowest-highest pitch, 0 to 100.")] = "40-60",
    audio_format: Annotated[str, typer.Option("--format", help="wav or flac.")] = "wav",
    json: JsonFlag = False,
) -> None:
    """Synthesize sentences in many voices (espeak-ng, offline) into a corpus with a manifest."""
    from moonshine_tune.data.synthesis.corpus import Delivery, choose_sentences, synthesize_corpus

    progress = TerminalProgress()
    chosen_voices = _voices(voices, voice_set)
    delivery = Delivery(rate_wpm=_range("--rate", rate), pitch=_range("--pitch", pitch))
    chosen = choose_sentences(
        file=sentences, grammar=grammar, count=count, skip=skip, seed=seed, progress=progress
    )
    result = synthesize_corpus(
        chosen,
        out,
        voices=chosen_voices,
        seed=seed,
        voices_per_sentence=voices_per_sentence,
        delivery=delivery,
        audio_format=audio_format,
        progress=progress,
    )
    text = (
        f"{result.utterances} utterances of {result.sentences} sentences, {result.seconds:.0f} s, "
        f"{len(result.voices)} voices: {result.manifest}"
    )
    show(text, result, as_json=json)


def _voices(named: str | None, voice_set: str) -> tuple[str, ...]:
    from moonshine_tune.audio.tts import VOICE_SETS

    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    if voice_set not in VOICE_SETS:
        raise RequestError(
            f"no voice set is called {voice_set!r}", hint=f"one of: {', '.join(VOICE_SETS)}"
        )
    return VOICE_SETS[voice_set]


def _range(option: str, text: str) -> tuple[int, int]:
    """A range "145-190", or one number for both ends."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise RequestError(
            f"{option} {text} is not a range of whole numbers",
            hint=f"write it as: {option} 145-190",
        )
    return int(match[1]), int(match[2] or match[1])
