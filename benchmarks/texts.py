"""From texts to an adapter: AN4 without its recordings, and rare words that nobody recorded.

    python -m benchmarks.texts an4 --out D [--real 0 12 20 50 100] [--engine espeak] [--steps N]
    python -m benchmarks.texts rare-words --out D [--weights 1 3] [--engine espeak] [--steps N]

`an4` trains on its 730 texts alone, and with some of its recordings, with and without the texts
beside them, and scores each adapter on its test set. `rare-words` trains on the rare words of
`librispeech_other` in carrier sentences, and counts their recall there before and after. Every arm
is scored on general speech too. Prints a line of JSON for each arm; what is done already is read.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import Layer, read_preset, resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.files import write_json_atomic, write_text_atomic
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.corpus.splits import evenly_chosen

_GENERAL = SHARED / "librispeech_other" / "manifest.jsonl"
_REPLAY = {"replay": str(SHARED / "replay_audio" / "manifest.jsonl")}


def an4(out: Path, counts: Sequence[int], engine: str, extra: Layer, seed: int) -> None:
    """Each number of recordings with and without the texts; 0 has the texts alone."""
    train = read_manifest(SHARED / "an4" / "train.jsonl").utterances
    texts = out / "texts.txt"
    write_text_atomic(texts, "".join(f"{t}\n" for t in sorted({u.reference for u in train})))
    for count in counts:
        data = dict(_REPLAY)
        if count:
            manifest = out / f"real-{count}.jsonl"
            chosen = evenly_chosen(train, count)
            write_manifest(manifest, [replace(item, split=None) for item in chosen])
            data["train"] = str(manifest)
        layers = [("arm", {"data": data, "train": {"seed": seed}}), extra]
        for spoken in (True, False) if count else (True,):
            name = f"real-{count}" + ("-and-texts" if spoken else "")
            request = {"texts": texts, "engines": tuple(engine.split(","))} if spoken else None
            print(json.dumps(_arm(out / name, layers, request, SHARED / "an4" / "test.jsonl")))


def rare_words(out: Path, weights: Sequence[float], engine: str, extra: Layer, seed: int) -> None:
    """The listed rare words in carrier sentences, with each weight of their tokens."""
    listed = [item.extra.get("rare_words") or () for item in read_manifest(_GENERAL).utterances]
    terms = out / "terms.txt"
    words = sorted({word for words in listed for word in words})
    write_text_atomic(terms, "".join(f"{word}\n" for word in words))
    request = {"terms": terms, "engines": tuple(engine.split(","))}
    for weight in weights:
        train = {"seed": seed, "term_weight": weight}
        layers = [("arm", {"data": _REPLAY, "train": train}), extra]
        arm = _arm(out / f"weight-{weight:g}", layers, request, _GENERAL, keyterms=terms)
        print(json.dumps(arm))


def _arm(
    out: Path,
    layers: Sequence[Layer],
    request: Mapping[str, Any] | None,
    test: Path,
    keyterms: Path | None = None,
) -> dict[str, Any]:
    """Train one arm and score it against the base on its test and on general speech."""
    record = out / "result.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    from moonshine_tune.config.resume import settings_as_run
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
    from moonshine_tune.runs.folder import RunFolder
    from moonshine_tune.training.run import train
    from moonshine_tune.training.texts import TextsRequest, synthesize_for_run

    progress, run = TerminalProgress(), out / "run"
    layers = [("preset tiny", read_preset("tiny")), *layers]
    resume = (run / "run.json").is_file()
    if resume:
        layers.insert(0, ("run.json", settings_as_run(RunFolder(run).read_record().settings)))
    elif request is not None:
        settings = resolve_settings(layers).settings
        layers.append(synthesize_for_run(TextsRequest(**request), settings, run, progress))
    trained = train(resolve_settings(layers), run, progress, resume=resume)
    figures: dict[str, Any] = {
        "arm": out.name,
        "dev_wer": [trained.baseline.dev_wer, trained.best.dev_wer],
        "steps": trained.steps,
        "synthetic": trained.synthetic.to_json() if trained.synthetic else None,
        "train_seconds": trained.train_seconds,
    }
    for name, manifest in (("test", test), ("general", _GENERAL)):
        terms = keyterms if name == "test" else None
        scored = EvaluateRequest(manifest, adapter=run, keyterms=terms)
        result = evaluate(scored, out / name, progress)
        assert result.comparison
        figures[name] = {
            "base_wer": result.comparison.before,
            "wer": result.score.wer,
            "points_ci95": result.comparison.ci95,
            "normalizer": result.normalizer,
        }
        if terms is not None and result.keyterms is not None:
            base = evaluate(EvaluateRequest(manifest, keyterms=terms), out / "base", progress)
            before = base.keyterms.recall if base.keyterms else None
            figures["recall"] = [before, result.keyterms.recall]
            figures["false_alarms_per_1000"] = result.keyterms.false_alarms_per_1000_words
    write_json_atomic(record, figures)
    return figures


def main() -> None:
    """Parse the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("an4", "rare-words"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=int, nargs="*", default=[0, 12, 20, 50, 100])
    parser.add_argument("--weights", type=float, nargs="*", default=[1.0, 3.0])
    parser.add_argument("--engine", default="espeak")
    parser.add_argument("--steps", type=int, help="training steps [default: of the preset]")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    apply_environment_defaults()
    steps = {} if arguments.steps is None else {
        "train": {"steps": arguments.steps}, "select": {"every_steps": arguments.steps}
    }  # fmt: skip
    extra: Layer = ("--steps", steps)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "an4":
        an4(out, arguments.real, arguments.engine, extra, arguments.seed)
    else:
        rare_words(out, arguments.weights, arguments.engine, extra, arguments.seed)


if __name__ == "__main__":
    main()
