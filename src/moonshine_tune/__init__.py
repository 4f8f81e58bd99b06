"""moonshine-tune: adapt Moonshine speech recognition to a domain, on your own machine.

    import moonshine_tune as mt

    result = mt.train(preset="tiny", train="train.jsonl", dev="dev.jsonl", out="runs/a")
    mt.evaluate("test.jsonl", adapter="runs/a").score.wer
    mt.transcribe(["clip.wav"], adapter="runs/a")[0].text
    mt.export("exported", run="runs/a").parity.passed

Each function does the work of the command of its name and returns a frozen dataclass. Problems are
raised as `TuneError`, with a message and a hint. Nothing is printed; `progress` takes an object
with the interface `moonshine_tune.core.progress.Progress`.

The import is cheap and sets the variables of `moonshine_tune.core.environment`: import it before
torch.
"""

import importlib
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.version import VERSION as __version__

if TYPE_CHECKING:
    from moonshine_tune.audio.samples import Samples
    from moonshine_tune.data.synthesis.corpus import SynthesisResult
    from moonshine_tune.evaluation.results import Evaluation
    from moonshine_tune.export.api import export_model as export
    from moonshine_tune.inference.recordings import Transcript
    from moonshine_tune.registry.open import OpenedModel
    from moonshine_tune.training.result import TrainResult

__all__ = [
    "TuneError",
    "__version__",
    "evaluate",
    "export",
    "open_model",
    "synthesize",
    "train",
    "transcribe",
]

AnyPath = str | PathLike[str]

apply_environment_defaults()


def train(
    *,
    out: AnyPath,
    train: AnyPath | None = None,
    dev: AnyPath | None = None,
    replay: AnyPath | None = None,
    canary: AnyPath | None = None,
    synthetic: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    texts: AnyPath | None = None,
    terms: AnyPath | None = None,
    engines: Sequence[str] = ("espeak",),
    model: str | None = None,
    parent: AnyPath | None = None,
    preset: str | None = None,
    config: AnyPath | None = None,
    settings: Mapping[str, Any] | None = None,
    tracker: str | None = None,
    resume: bool = False,
    fit: bool = False,
    progress: Progress | None = None,
) -> "TrainResult":
    """Train a LoRA adapter; the best one is in `out/adapter`.

    Settings have the same sources as on the command line, later ones win: preset, settings file
    (`config`), the named arguments, `settings`.

    Args:
        train, dev, replay, canary: manifests; `train` is required unless another source has it.
            `replay` also takes a folder of recordings, "auto", "hub" or "none", as `--replay`.
        parent: run or adapter folder whose adapter the training starts at (`--from`).
        synthetic: manifest of synthesized clips beside `train`.
        unlabelled: recordings without transcripts, a folder or a manifest, that the base labels;
            needs `dev`, and `train` is optional.
        texts, terms: files of sentences (or templates) and of terms, which are synthesized into
            the run folder by `engines`.
        settings: any setting by its name, nested or dotted: `{"train.steps": 100}`.
        resume: continue the run in `out` with its own settings.
        fit: change settings until the run fits the memory.

    Raises:
        TuneError: wrong settings or data, or this machine cannot do it.
    """
    from moonshine_tune.config.resolve import resolve_settings, settings_layers
    from moonshine_tune.config.resume import settings_as_run
    from moonshine_tune.registry.model_preset import with_model_preset
    from moonshine_tune.runs.folder import RunFolder
    from moonshine_tune.runs.parent import with_parent
    from moonshine_tune.training.run import train as run_training

    manifests = {
        "train": train,
        "dev": dev,
        "replay": replay,
        "canary": canary,
        "synthetic": synthetic,
        "unlabelled": unlabelled,
    }
    layers = settings_layers(
        preset,
        None if config is None else Path(config),
        None,
        flags={"model": model, "tracker": tracker},
        manifests={name: fspath(path) for name, path in manifests.items() if path is not None},
        parent=_path(parent),
    )
    if resume:
        before = RunFolder.open(Path(out)).read_record().settings
        layers.insert(0, ("run.json", settings_as_run(before)))
    else:
        layers = with_model_preset(with_parent(layers))
    layers.append(("settings", settings or {}))
    progress = progress or SilentProgress()
    if not resume and (texts is not None or terms is not None):
        from moonshine_tune.training.texts import TextsRequest, synthesize_for_run

        request = TextsRequest(_path(texts), _path(terms), tuple(engines))
        own = resolve_settings(layers).settings
        layers.append(synthesize_for_run(request, own, Path(out), progress))
    resolved = resolve_settings(layers)
    return run_training(resolved, Path(out), progress, resume=resume, fit=fit)


def synthesize(
    out: AnyPath,
    *,
    texts: AnyPath | None = None,
    templates: AnyPath | None = None,
    terms: AnyPath | None = None,
    per_term: int = 5,
    count: int | None = None,
    engines: Sequence[str] = ("espeak",),
    voices: Sequence[str] | str = "all",
    voices_per_sentence: int = 1,
    seed: int = 0,
    check: bool | None = None,
    model: str = "tiny",
    progress: Progress | None = None,
) -> "SynthesisResult":
    """Synthesize sentences, templates or terms into a new folder with a manifest.

    Args:
        texts, templates, terms: files; one of the first two, terms, or both.
        per_term: number of carrier sentences of each term.
        count: number of sentences, terms aside; None for all, of templates 1,000.
        engines: espeak, moonshine, say or flite.
        voices: names, or those of a split: train, dev, test or all.
        check: leave out what the base model does not understand; None where `model` is here.

    Raises:
        TuneError: files that cannot be used, no such voice, or an engine that does not work here.
    """
    from moonshine_tune.audio.voice_pool import VoicePool
    from moonshine_tune.data.synthesis.corpus import SynthesisOptions, synthesize_corpus
    from moonshine_tune.data.synthesis.intelligibility import speech_check
    from moonshine_tune.data.synthesis.sentence_sources import SentenceSources, choose_prompts

    progress = progress or SilentProgress()
    sources = SentenceSources(
        file=_path(texts),
        templates=_path(templates),
        terms=_path(terms),
        per_term=per_term,
        count=count,
        seed=seed,
    )
    prompts = choose_prompts(sources, progress)
    with VoicePool.open(tuple(engines), progress) as pool:
        return synthesize_corpus(
            prompts,
            Path(out),
            voices=pool.voices(voices) if isinstance(voices, str) else tuple(voices),
            options=SynthesisOptions(seed, voices_per_sentence),
            pool=pool,
            check=speech_check(check, model, progress),
            progress=progress,
        )


def evaluate(
    manifest: AnyPath,
    *,
    model: str | None = None,
    adapter: AnyPath | None = None,
    runtime_dir: AnyPath | None = None,
    compare: AnyPath | None = None,
    normalizer: str | None = None,
    device: str = "auto",
    out: AnyPath | None = None,
    progress: Progress | None = None,
) -> "Evaluation":
    """Score a model on a manifest; with an adapter, also its base model for comparison.

    Args:
        model: catalog name, hub id or folder; None takes the adapter's base, else `tiny`.
        adapter: run folder or adapter folder.
        runtime_dir: exported folder, which the Moonshine runtime scores instead of torch; with
            `adapter` beside it, as `systems` of the result.
        compare: `out` of an earlier evaluation of the same manifest.
        out: folder for result.json and hypotheses.jsonl.

    Raises:
        TuneError: wrong data or arguments, or this machine cannot do it.
    """
    from moonshine_tune.evaluation.evaluate import EvaluateRequest
    from moonshine_tune.evaluation.evaluate import evaluate as run_evaluation

    request = EvaluateRequest(
        manifest=Path(manifest),
        model=model,
        adapter=_path(adapter),
        # Files beside an adapter are scored with it, torch and runtime side by side.
        backend="torch" if runtime_dir is None or adapter is not None else "runtime",
        runtime_dir=_path(runtime_dir),
        compare=_path(compare),
        normalizer=normalizer,
        device=device,
    )
    return run_evaluation(request, _path(out), progress or SilentProgress())


def transcribe(
    recordings: "Sequence[AnyPath | Samples]",
    *,
    model: "str | OpenedModel | None" = None,
    adapter: AnyPath | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> "list[Transcript]":
    """Transcribe recordings of up to 30 s each; returns their texts and durations in order.

    Args:
        recordings: audio files, or mono samples at 16 kHz as one-dimensional arrays.
        model: catalog name, hub id or folder, or a model of `open_model`, which transcribes with
            the adapter that it uses; None takes the adapter's base, else `tiny`.
        adapter: run folder or adapter folder.

    Raises:
        TuneError: recordings that cannot be read or are too long, a wrong model or device.
    """
    from moonshine_tune.core.errors import RequestError
    from moonshine_tune.inference.recordings import transcribe_recordings
    from moonshine_tune.inference.transcribe import TorchTranscriber
    from moonshine_tune.registry.open import OpenedModel

    if isinstance(model, OpenedModel):
        if adapter is not None:
            raise RequestError(
                "this model is open already",
                hint="model.load_adapter(NAME, PATH) loads an adapter beside those that it has",
            )
        opened = model
    else:
        opened = open_model(
            model, adapter=adapter, device=device, dtype="float32", progress=progress
        )
    return transcribe_recordings(
        TorchTranscriber(opened.model, opened.limits),
        [Path(item) if isinstance(item, str | PathLike) else item for item in recordings],
        progress or SilentProgress(),
    )


def open_model(
    name: str | None = None,
    *,
    adapter: AnyPath | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    progress: Progress | None = None,
) -> "OpenedModel":
    """Load a model by catalog name, hub id or folder, with an adapter if one is given.

    Args:
        name: None takes the adapter's base, else `tiny`.
        adapter: run folder or adapter folder.
        dtype: number format of the arithmetic: auto, float32, bfloat16 or float16.
        offline: use no network.

    Raises:
        TuneError: no such model, adapter or device, or no source of the model is reachable.
    """
    from moonshine_tune.registry.open import open_model as load

    return load(
        name,
        adapter=_path(adapter),
        device=device,
        dtype=dtype,
        offline=offline,
        progress=progress or SilentProgress(),
    )


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def __getattr__(name: str) -> Any:
    """`export` is a package too: it is imported on first use, and it can be called."""
    if name == "export":
        return importlib.import_module("moonshine_tune.export")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
