"""Score sets of utterances as demonstrations and plans do: a folder for each set and model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.evaluation.evaluate import Variant, score_manifest
from moonshine_tune.evaluation.results import Evaluation, write_evaluation
from moonshine_tune.inference.transcribe import Transcriber
from moonshine_tune.metrics.wer import compare_paired


def score_sets(
    transcriber: Transcriber,
    sets: Mapping[str, Path],
    normalizer: str | None,
    progress: Progress,
    *,
    model: str,
    adapter: str | None = None,
    side: str,
    out: Path,
) -> dict[str, Evaluation]:
    """Score each manifest with one transcriber; writes `out/SET-SIDE-BACKEND`, as reports read it.

    Args:
        sets: manifests by name.
        normalizer: None for that of the manifest's language.
        side: `base` or `adapted`.
    """
    evaluations = {}
    for name, path in sets.items():
        manifest = read_manifest(path)
        scorer = normalizer_for(normalizer, manifest.utterances[0].language or "en")
        variant = Variant(f"{side}, {name}", model, adapter, transcriber, scorer)
        evaluations[name] = score_manifest(variant, manifest, progress)
        write_evaluation(out / f"{name}-{side}-{transcriber.backend}", evaluations[name])
    return evaluations


def compare_scores(scores: Mapping[str, Mapping[str, Evaluation]]) -> dict[str, Any]:
    """Figures by set: the score of each side, and their paired comparison where there are two.

    Args:
        scores: evaluations by side (`adapted`, and `base` where it was scored) and set.
    """
    figures: dict[str, Any] = {}
    for name, adapted in scores["adapted"].items():
        figures[name] = {side: _figures(sets[name]) for side, sets in scores.items()}
        if "base" in scores:
            comparison = compare_paired(scores["base"][name].scored, adapted.scored)
            figures[name]["comparison"] = comparison.to_record()
        figures["normalizer"] = adapted.normalizer
    return figures


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {**evaluation.score.to_record(), "utterances": evaluation.score.utterances}
