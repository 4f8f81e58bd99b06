"""Training from texts, alone or beside recordings: synthesized into the run folder."""

import hashlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.voice_pool import VoicePool
from moonshine_tune.config.resolve import Layer
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.data.synthesis.corpus import SynthesisOptions, synthesize_corpus
from moonshine_tune.data.synthesis.intelligibility import speech_check
from moonshine_tune.data.synthesis.prompts import Prompt
from moonshine_tune.data.synthesis.sentence_sources import (
    SentenceSources,
    choose_prompts,
    has_templates,
)
from moonshine_tune.runs.folder import SPEECH_FOLDER, RunFolder

# Clips to aim at: few texts are spoken by several voices, and many by one each.
_CLIPS = 1000
_MOST_VOICES = 10
# With fewer texts, dev has the same ones in other voices: held out, they would not be learnt.
_FEWEST_HELD_OUT = 50
_REQUEST_FILE = "request.json"


@dataclass(frozen=True)
class TextsRequest:
    """Texts to train on.

    Attributes:
        texts: sentences, one per line, or templates with choices in braces.
        terms: terms, each of which is put into carrier sentences.
        engines: of `ENGINES`; `engine_command` belongs to `command`.
        check: leave out what the base model does not understand; None where it is here.
    """

    texts: Path | None = None
    terms: Path | None = None
    engines: tuple[str, ...] = ("espeak",)
    engine_command: str | None = None
    check: bool | None = None


def synthesize_for_run(
    request: TextsRequest, settings: RunSettings, out: Path, progress: Progress
) -> Layer:
    """Synthesize texts into `out/synthetic`, and name the speech in a layer of settings.

    Beside a training manifest it is `data.synthetic`. Without one it is `data.train`, and without a
    development manifest too, a share of the texts in other voices is `data.dev`. Speech that an
    earlier attempt has left there is used again if the request is the same.

    Raises:
        RequestError: a run or the speech of other texts is in the folder, or texts that cannot be
            used.
        MachineError: no engine works here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(
            "texts are synthesized by one process, and several train together",
            hint="synthesize first with `moonshine-tune data synth`, then train with --synthetic",
        )
    seed = settings.train.seed
    templates = request.texts is not None and has_templates(request.texts)
    sources = SentenceSources(
        file=None if templates else request.texts,
        templates=request.texts if templates else None,
        terms=request.terms,
        seed=seed,
    )
    prompts = choose_prompts(sources, progress)
    has_real = settings.data.train is not None
    needs_dev = not has_real and settings.data.dev is None
    train, dev = _hold_out(prompts, settings, progress) if needs_dev else (prompts, ())
    speech = out / SPEECH_FOLDER
    with one_writer(out):
        RunFolder.create(out)
        _claim(speech, request, prompts, settings)
        parts = {speech / "train": train, speech / "dev": dev}
        manifests = {folder.name: folder / "manifest.jsonl" for folder in parts}
        missing = {folder: part for folder, part in parts.items() if part and not folder.exists()}
        if missing:
            _synthesize(missing, request, settings, progress)
    data: dict[str, Any] = {
        "synthetic" if has_real else "train": str(manifests["train"].absolute())
    }
    if needs_dev:
        data["dev"] = str(manifests["dev"].absolute())
    if request.terms is not None and settings.data.terms is None:
        data["terms"] = str(request.terms.absolute())
    return "texts", {"data": data}


def _synthesize(
    parts: Mapping[Path, Sequence[Prompt]],
    request: TextsRequest,
    settings: RunSettings,
    progress: Progress,
) -> None:
    """Speak the prompts of train and dev into their folders, in the voices of these splits."""
    seed = settings.train.seed
    check = speech_check(request.check, settings.model, progress)
    with VoicePool.open(request.engines, progress, command=request.engine_command) as pool:
        for folder, prompts in parts.items():
            voices, per_sentence = pool.voices(folder.name), 1
            if folder.name == "train":
                per_sentence = min(max(_CLIPS // len(prompts), 1), _MOST_VOICES, len(voices))
            result = synthesize_corpus(
                prompts,
                folder,
                voices=voices,
                options=SynthesisOptions(seed=seed, voices_per_sentence=per_sentence),
                pool=pool,
                check=check,
                progress=progress,
            )
            progress.say(
                f"{folder.name}: {result.utterances} synthetic clips of {result.sentences} texts "
                f"in {len(result.voices)} voices, {result.seconds:.0f} s"
            )


def _claim(
    speech: Path, request: TextsRequest, prompts: Sequence[Prompt], settings: RunSettings
) -> None:
    """Refuse a folder with the speech of another request."""
    content = [
        [asdict(prompt) for prompt in prompts],
        [request.engines, request.engine_command, request.check],
        [settings.model, settings.train.seed, settings.data.dev_share],
        [settings.data.train is None, settings.data.dev is None],
    ]
    digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
    path = speech / _REQUEST_FILE
    if not path.exists():
        write_json_atomic(path, {"sha256": digest})
    elif read_json(path).get("sha256") != digest:
        raise RequestError(
            "the folder has speech that was synthesized for another request",
            where=speech,
            hint=f"choose another --out, or remove it: rm -r {quoted(speech)}",
        )


def _hold_out(
    prompts: Sequence[Prompt], settings: RunSettings, progress: Progress
) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """Train and dev: a share of the texts, and of each term's sentences the last.

    Few texts are in both, and a term with one sentence too.
    """
    limit = settings.select.max_dev_utterances
    texts = [prompt for prompt in prompts if not prompt.terms]
    by_term: dict[tuple[str, ...], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.terms:
            by_term[prompt.terms].append(prompt)
    order = list(texts)
    random.Random(f"{settings.train.seed}/dev").shuffle(order)
    if len(texts) >= _FEWEST_HELD_OUT:
        chosen = order[: round(len(texts) * settings.data.dev_share)]
        held_out = set(chosen)
    else:
        chosen, held_out = order, set()
    last = [own[-1] for own in by_term.values()]
    held_out |= {own[-1] for own in by_term.values() if len(own) > 1}
    dev = (chosen + last)[:limit]
    kept = [prompt for prompt in prompts if prompt not in held_out or prompt not in dev]
    if texts and len(texts) < _FEWEST_HELD_OUT:
        progress.say(
            f"dev: the same {len(texts)} texts in other voices, because they are few: its WER says "
            "nothing about other texts"
        )
    else:
        progress.say(f"dev: {len(dev)} of {len(prompts)} texts are held out, in other voices")
    return kept, dev
