"""`moonshine-tune data synth`: a synthetic speech corpus from texts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress

if TYPE_CHECKING:
    from moonshine_tune.data.synthesis.judgment import SpeechCheck

_EPILOG = (
    "Examples: moonshine-tune data synth --grammar atc --count 60 --voice-set train --out atc-train"
    " ; a test set that shares no sentence and no voice with it: moonshine-tune data synth"
    " --grammar atc --skip 60 --count 40 --voice-set test --out atc-test ; your own words:"
    " moonshine-tune data synth --terms terms.txt --per-term 5 --out spoken-terms"
)
_VOICE_SETS = ("train", "dev", "test", "all")


def register(app: typer.Typer) -> None:
    """Add the command `synth` to the `data` commands."""
    app.command("synth", epilog=_EPILOG)(synth)


def synth(
    out: Annotated[
        Path, typer.Option(file_okay=False, help="New folder for manifest.jsonl and audio/.")
    ],
    sentences: Annotated[
        Path | None,
        typer.Option(help="Text file, one sentence per line; its spoken form may follow a tab."),
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Templates: turn {left|right} heading {digits:3}.")
    ] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", help="A list for templates: airline=Lufthansa,Swiss."),
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(help="atc: air-traffic phraseology; general: everyday English."),
    ] = None,
    terms: Annotated[
        Path | None,
        typer.Option(help="Terms, one per line, spoken in carrier sentences; a tab, spoken form."),
    ] = None,
    per_term: Annotated[int, typer.Option(help="Carrier sentences of each term.")] = 5,
    carriers: Annotated[
        Path | None, typer.Option(help="Your own carrier sentences, each with {term}.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="Number of sentences, terms aside [default: all, of templates 1000]."),
    ] = None,
    skip: Annotated[int, typer.Option(help="Skip this many sentences first.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same sentences and recordings.")] = 0,
    engine: Annotated[
        str, typer.Option(help="espeak, moonshine, say, flite, command; several with commas.")
    ] = "espeak",
    engine_command: Annotated[
        str | None, typer.Option(help="Of --engine command: 'program {text_file} {out}'.")
    ] = None,
    voice_set: Annotated[
        str, typer.Option(help="train, dev, test (no voice in two of them) or all.")
    ] = "all",
    voices: Annotated[
        str | None,
        typer.Option(help="Your own voices instead, with commas: en-us,en-us+f2,flite:slt."),
    ] = None,
    voices_per_sentence: Annotated[
        int, typer.Option(help="Number of voices that speak each sentence.")
    ] = 1,
    rate: Annotated[str, typer.Option(help="Slowest-fastest speech, words a minute.")] = "145-190",
    pitch: Annotated[str, typer.Option(help="Lowest-highest pitch, 0 to 100 (espeak).")] = "40-60",
    audio_format: Annotated[str, typer.Option("--format", help="wav or flac.")] = "wav",
    check: Annotated[
        bool | None,
        typer.Option(help="Leave out what the base model does not understand [default: if here]."),
    ] = None,
    model: Annotated[str, typer.Option(help="The base model of the check.")] = "tiny",
    json: JsonFlag = False,
) -> None:
    """Synthesize texts in many voices (espeak-ng, offline) into a corpus with a manifest."""
    from moonshine_tune.audio.voice_pool import VoicePool
    from moonshine_tune.data.synthesis.corpus import Delivery, SynthesisOptions, synthesize_corpus
    from moonshine_tune.data.synthesis.sentence_sources import SentenceSources, choose_prompts

    progress = TerminalProgress()
    if voices is None and voice_set not in _VOICE_SETS:
        raise RequestError(
            f"no voice set is called {voice_set!r}", hint=f"one of: {', '.join(_VOICE_SETS)}"
        )
    options = SynthesisOptions(
        seed=seed,
        voices_per_sentence=voices_per_sentence,
        delivery=Delivery(rate_wpm=_range("--rate", rate), pitch=_range("--pitch", pitch)),
        audio_format=audio_format,
    )
    sources = SentenceSources(
        file=sentences,
        templates=templates,
        lists=_lists(lists or ()),
        grammar=grammar,
        terms=terms,
        carriers=carriers,
        per_term=per_term,
        count=count,
        skip=skip,
        seed=seed,
    )
    prompts = choose_prompts(sources, progress)
    with VoicePool.open(_words(engine), progress, command=engine_command) as pool:
        chosen = pool.voices(voice_set) if voices is None else tuple(_words(voices))
        result = synthesize_corpus(
            prompts,
            out,
            voices=chosen,
            options=options,
            pool=pool,
            check=None if check is False else _speech_check(check, model, progress),
            progress=progress,
        )
    left_out = f", {result.left_out} left out" if result.left_out else ""
    text = (
        f"{result.utterances} utterances of {result.sentences} sentences, {result.seconds:.0f} s, "
        f"{len(result.voices)} voices{left_out}: {result.manifest}"
    )
    show(text, result, as_json=json)


def _speech_check(wanted: bool | None, model: str, progress: Progress) -> "SpeechCheck | None":
    from moonshine_tune.data.synthesis.intelligibility import speech_check

    return speech_check(wanted, model, progress)


def _words(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _lists(assignments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`--list airline=Lufthansa,Swiss` as a name and its items."""
    lists = {}
    for assignment in assignments:
        name, equals, items = assignment.partition("=")
        if not equals or not name.strip().isidentifier() or not _words(items):
            raise RequestError(
                f"--list {assignment!r} is not a name and its items",
                hint="write it as: --list airline=Lufthansa,Swiss",
            )
        lists[name.strip()] = tuple(_words(items))
    return lists


def _range(option: str, text: str) -> tuple[int, int]:
    """A range "145-190", or one number for both ends."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise RequestError(
            f"{option} {text} is not a range of whole numbers",
            hint=f"write it as: {option} 145-190",
        )
    return int(match[1]), int(match[2] or match[1])
