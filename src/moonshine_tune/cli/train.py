"""`moonshine-tune train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, number, refuse, show, table
from moonshine_tune.cli.options import OutFolder
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.training.result import TrainResult
    from moonshine_tune.training.texts import TextsRequest

_EXAMPLE = (
    "Examples: moonshine-tune train --train train.jsonl --dev dev.jsonl "
    "--replay general.jsonl --out runs/a ; from texts alone: "
    "moonshine-tune train --texts texts.txt --out runs/a"
)

# What to do about an adapter that should not be used, by the verdict.
_ADVICE = {
    "no better than the base": "do not use this adapter; lower train.learning_rate, or train on "
    "more speech",
    "no better than the adapter before": "keep using that one, or train on more speech",
    "no gain shown": "the interval has 0: give more recordings, transcribe some of them "
    "(pseudo-labels/ has a draft), or name more dev clips",
    "canary bound broken": "no adapter keeps the canary within its bound: raise retain.weight",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog=_EXAMPLE)(train)


def train(
    out: OutFolder,
    model: Annotated[
        str | None, Option(help="Catalog name, hub id or folder [default: tiny].")
    ] = None,
    train_manifest: Annotated[Path | None, Option("--train", help="Training manifest.")] = None,
    dev: Annotated[
        Path | None, Option(help="Development manifest [default: a share of train is held out].")
    ] = None,
    replay: Annotated[
        str | None,
        Option(
            help="General speech that keeps general accuracy, no texts needed: a manifest, a "
            "folder of recordings, auto, hub or none [default: auto, by the preset]."
        ),
    ] = None,
    canary: Annotated[
        Path | None, Option(help="General speech; rejects adapters that get worse on it.")
    ] = None,
    parent: Annotated[
        Path | None,
        Option("--from", help="Run or adapter folder to start at; its recordings are replayed."),
    ] = None,
    synthetic: Annotated[
        Path | None, Option(help="Synthesized clips beside --train, a share of each step.")
    ] = None,
    unlabelled: Annotated[
        Path | None,
        Option(
            help="Recordings without transcripts, a folder or a manifest: the base writes their "
            "texts, and trustworthy ones are learned. Needs --dev; --train is optional."
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        Option(help="Sentences, one per line, or templates: synthesized into the run folder."),
    ] = None,
    terms: Annotated[
        Path | None,
        Option(help="Terms, one per line: synthesized in carrier sentences. May join --texts."),
    ] = None,
    engine: Annotated[
        str, Option(help="Of --texts: espeak, moonshine, say, flite, command.")
    ] = "espeak",
    engine_command: Annotated[
        str | None, Option(help="Of --engine command: 'program {text_file} {out}'.")
    ] = None,
    check: Annotated[
        bool | None,
        Option(help="Of --texts: leave out what the base does not understand [default: if here]."),
    ] = None,
    preset: Annotated[
        str | None,
        Option(
            help="Shipped: tiny, tiny-proof, medium, medium-pilot or demo [default: that of the "
            "model]."
        ),
    ] = None,
    config: Annotated[Path | None, Option(help="YAML settings file.")] = None,
    assignments: Annotated[
        list[str] | None,
        Option(
            "--set",
            help="One setting, repeatable: train.learning_rate=3e-4. `moonshine-tune settings` "
            "lists all.",
        ),
    ] = None,
    device: Annotated[
        str | None, Option(help="auto, cpu, mps, cuda or cuda:N [default: auto].")
    ] = None,
    tracker: Annotated[str | None, Option(help="Also log to wandb, mlflow, trackio, …")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue a stopped run.")] = False,
    full: Annotated[
        bool,
        Option(
            "--full",
            help="Full fine-tuning: the layers' own weights train, instead of an adapter "
            "(adapter.kind=full). For hours of speech.",
        ),
    ] = False,
    fit: Annotated[
        bool, Option("--fit", help="Change settings until the run fits the memory.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train an adapter, or the weights: scores the base first, keeps the best, saves on Ctrl-C."""
    from moonshine_tune.config.resolve import resolve_settings, settings_layers
    from moonshine_tune.registry.model_preset import with_model_preset

    manifests = {
        "train": train_manifest,
        "dev": dev,
        "replay": replay,
        "canary": canary,
        "synthetic": synthetic,
        "unlabelled": unlabelled,
    }
    kind = "full" if full else None
    flags = {"model": model, "tracker": tracker, "device.name": device, "adapter.kind": kind}
    layers = settings_layers(
        preset, config, assignments, flags=flags, manifests=manifests, parent=parent
    )
    if resume:
        layers.insert(0, ("run.json", _settings_of_run(out)))
    else:
        from moonshine_tune.runs.parent import with_parent

        layers = with_model_preset(with_parent(layers))
    progress = TerminalProgress()
    request = _texts_request(texts, terms, engine, engine_command, check)
    if request is not None and resume:
        progress.say("this run has its speech already: --texts and --terms are not read again")
    elif request is not None:
        from moonshine_tune.training.texts import synthesize_for_run

        own = resolve_settings(layers).settings
        layers.append(synthesize_for_run(request, own, out, progress))
    settings = resolve_settings(layers)

    from moonshine_tune.training.run import train as run_training

    result = run_training(settings, out, progress, resume=resume, fit=fit)
    show(_summary(result), _document(result), as_json=as_json)
    if result.stopped == "interrupted":
        raise typer.Exit(130)
    refuse(result.verdict in _ADVICE)


def _texts_request(
    texts: Path | None,
    terms: Path | None,
    engine: str,
    engine_command: str | None,
    check: bool | None,
) -> "TextsRequest | None":
    """The texts to synthesize; None where none are named."""
    if texts is None and terms is None:
        if engine != "espeak" or engine_command is not None or check is not None:
            raise RequestError(
                "--engine, --engine-command and --check are of texts that are synthesized",
                hint="name them with --texts FILE or --terms FILE",
            )
        return None
    from moonshine_tune.training.texts import TextsRequest

    engines = tuple(name.strip() for name in engine.split(",") if name.strip())
    return TextsRequest(texts, terms, engines, engine_command, check)


def _settings_of_run(out: Path) -> Mapping[str, Any]:
    from moonshine_tune.config.resume import settings_as_run
    from moonshine_tune.runs.folder import RunFolder

    return settings_as_run(RunFolder.open(out).read_record().settings)


def _document(result: "TrainResult") -> dict[str, Any]:
    paths = {"run": str(result.run), "adapter": str(result.adapter)}
    voices = {"voices": result.voices.to_json()} if result.voices else {}
    synthetic = {"synthetic": result.synthetic.to_json()} if result.synthetic else {}
    labels = {"pseudo_labels": result.pseudo_labels.to_json()} if result.pseudo_labels else {}
    return (
        paths
        | {"stopped": result.stopped}
        | result.to_json()
        | voices
        | ({"replay": result.replay.to_json()} if result.replay else {})
        | synthetic
        | labels
        | {"remarks": result.remarks}
    )


def _general_speech(result: "TrainResult") -> list[str]:
    """What was replayed, and how far the adapter drifts from the base on what was held out."""
    if result.replay is None or not result.replay.clips:
        return ["nothing was replayed: general speech may be worse; see --replay in train --help"]
    drift = result.best.drift
    measured = "" if drift is None else f"; drift {drift:.4f} nats per token on held-out replay"
    return [f"replayed: {result.replay.sentence}{measured}"]


def _summary(result: "TrainResult") -> str:
    canary = result.best.canary_name.replace("canary", "canary WER", 1)
    rows = []
    candidates = [("base", result.baseline), (f"step {result.best.step}", result.best)]
    if result.parent:
        candidates.insert(1, ("before", result.parent))
    for name, candidate in candidates:
        wers = number(candidate.dev_wer), number(candidate.canary_wer)
        rows.append([name, *wers, f"{candidate.strength:g}"])
    lines = [
        table(["adapter", "dev WER", canary, "strength"], rows),
        *([f"dev WER is {result.voices.sentence}"] if result.voices else []),
        *_general_speech(result),
        *([f"synthetic speech: {result.synthetic.sentence}"] if result.synthetic else []),
        *([f"pseudo-labels: {result.pseudo_labels.sentence}"] if result.pseudo_labels else []),
        *([f"against the base on dev: {result.gain.sentence}"] if result.gain else []),
        f"{result.stopped} after {result.steps} steps, {result.train_seconds:.0f} s of training, "
        f"{result.seconds:.0f} s in total, peak {result.peak_memory_mb} MB, "
        f"loss {result.first_loss:.3f} → {result.last_loss:.3f}, "
        f"{result.skipped_steps} steps skipped",
        *([f"time: {result.time_sentence}"] if result.time_sentence else []),
        f"adapter: {result.adapter}",
    ]
    if result.verdict in _ADVICE:
        lines.append(f"{result.remarks[-1]}; {_ADVICE[result.verdict]}")
    run = quoted(result.run)
    if result.stopped == "interrupted":
        lines.append(
            f"everything is saved; continue with: moonshine-tune train --resume --out {run}"
        )
    elif result.verdict in _ADVICE:
        lines.append(f"next: moonshine-tune report {run}")
    else:
        lines.append(f"next: moonshine-tune evaluate --adapter {run} --manifest test.jsonl")
    return "\n".join(lines)
