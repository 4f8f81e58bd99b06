"""`data fix --style base` on sentences whose punctuation and case are known.

    python -m benchmarks.base_style [--model tiny] [--manifest FILE]

Takes marks and case from a punctuated manifest (without one, `../shared/data/ljspeech`), writes
them back with the base model, and compares both with the true texts. Prints one line of JSON.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.acceptance import SHARED
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.punctuation import WrittenText
from moonshine_tune.data.base_style import restyle
from moonshine_tune.metrics import letter_case, punctuation
from moonshine_tune.registry.open import open_model


def bare(text: str) -> str:
    """A text in small letters, with spaces and hyphens alone between its words."""
    parts = WrittenText.of(text)
    gaps = ["", *("-" if gap == "-" else " " for gap in parts.gaps[1:-1]), ""]
    return str(WrittenText(parts.words, tuple(gaps))).lower()


def main() -> None:
    """Parse the arguments, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--manifest", type=Path, default=SHARED / "ljspeech" / "manifest.jsonl")
    arguments = parser.parse_args()
    progress = TerminalProgress()
    true = {item.id: item for item in read_manifest(arguments.manifest).utterances}
    stripped = {name: item.with_text(bare(item.reference)) for name, item in true.items()}
    opened = open_model(arguments.model, dtype="float32", progress=progress)
    styled = restyle(tuple(stripped.values()), opened, progress)
    result: dict[str, object] = {"model": arguments.model, "utterances": len(true)}
    for name, metric in (("punctuation", punctuation), ("case", letter_case)):
        for side, texts in (("before", {}), ("after", styled.texts)):
            counts = [
                metric.count(item.reference, texts.get(key, stripped[key].reference))
                for key, item in true.items()
            ]
            errors, total = (sum(pair[index] for pair in counts) for index in (0, 1))
            result[f"{name}_errors_{side}"] = f"{errors} of {total}"
    result["changed_words"] = sum(
        own != new
        for key, text in styled.texts.items()
        for own, new in zip(
            WrittenText.of(stripped[key].reference).keys, WrittenText.of(text).keys, strict=True
        )
    )
    kept = {reason: len(ids) for reason, ids in asdict(styled)["kept"].items()}
    result |= {"sentence_form": len(styled.sentence_form), "kept": kept}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
