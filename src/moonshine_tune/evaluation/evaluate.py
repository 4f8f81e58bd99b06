"""Scoring a model on a manifest: through torch or through the runtime, base against adapted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.keyterms import DEFAULT_BOOST, read_key_terms
from moonshine_tune.corpus.manifest import Manifest, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.evaluation.arms import KeyTermsTable, key_terms_arm
from moonshine_tune.evaluation.noise_conditions import (
    CLEAN,
    Condition,
    ConditionsRequest,
    conditions_of,
)
from moonshine_tune.evaluation.results import (
    ConditionScore,
    Evaluation,
    earlier_evaluation,
    write_evaluation,
)
from moonshine_tune.inference.transcribe import TorchTranscriber, Transcriber, transcribe_utterances
from moonshine_tune.metrics.wer import (
    ScoredUtterance,
    compare_paired,
    score_utterance,
    summarize,
)
from moonshine_tune.models.lora import adapter_disabled, find_adapter
from moonshine_tune.registry.open import open_model
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RuntimeTranscriber, check_takes_keyterms


@dataclass(frozen=True)
class EvaluateRequest:
    """What is to be scored.

    Attributes:
        backend: `torch`, or `runtime` with `runtime_dir`.
        adapter: run or adapter folder; the base is scored too, for the comparison.
        conditions: noises and rooms to score it under too.
        compare: folder of an earlier evaluation of the same manifest, to compare with.
        keyterms: file of terms that the runtime listens for; `boost` says how strongly. The
            same files are scored without them too.
        base_runtime: the base's runtime folder, scored in the same way: adapter, key terms, both.
    """

    manifest: Path
    model: str = "tiny"
    adapter: Path | None = None
    backend: str = "torch"
    runtime_dir: Path | None = None
    compare: Path | None = None
    normalizer: str | None = None
    device: str = "auto"
    score_base: bool = True
    conditions: ConditionsRequest | None = None
    keyterms: Path | None = None
    boost: float = DEFAULT_BOOST
    base_runtime: Path | None = None


def evaluate(request: EvaluateRequest, out: Path | None, progress: Progress) -> Evaluation:
    """Score a manifest; with `out`, write result.json and hypotheses.jsonl there.

    Raises:
        RequestError: wrong input, or a combination that makes no sense.
    """
    if request.backend not in ("torch", "runtime"):
        raise RequestError(f"no back end is called {request.backend!r}", hint="torch or runtime")
    if request.backend == "torch" and (request.keyterms or request.base_runtime):
        raise RequestError(
            "key terms are applied by the runtime",
            hint="name the exported folder: --runtime-dir D --keyterms terms.txt",
        )
    if request.conditions and (request.keyterms or request.base_runtime):
        raise RequestError(
            "key terms and noise conditions are scored one at a time",
            hint="leave out --conditions, or --keyterms and --base-runtime",
        )
    manifest = read_manifest(request.manifest)
    before = earlier_evaluation(request.compare, manifest) if request.compare else None
    # Before the model is loaded: a folder without audio is found out at once.
    conditions = conditions_of(request.conditions) if request.conditions else (CLEAN,)
    if request.backend == "runtime":
        scored = _through_runtime(request, manifest, before, progress, conditions)
    else:
        scored = _through_torch(request, manifest, before, progress, conditions)
    evaluation = scored[0]
    if request.conditions:
        evaluation = replace(
            evaluation,
            conditions=tuple(
                ConditionScore(
                    one.noise, one.snr_db, found.score, found.scored, found.base, found.comparison
                )
                for one, found in zip(conditions, scored, strict=True)
            ),
        )
    if out is not None:
        write_evaluation(out, evaluation)
    return evaluation


def _language(manifest: Manifest) -> str:
    return manifest.utterances[0].language or "en"


def _through_runtime(
    request: EvaluateRequest,
    manifest: Manifest,
    before: tuple[ScoredUtterance, ...] | None,
    progress: Progress,
    conditions: Sequence[Condition],
) -> list[Evaluation]:
    if request.runtime_dir is None:
        raise RequestError(
            "the runtime back end needs a runtime folder",
            hint="name it with --runtime-dir; `moonshine-tune export` makes one",
        )
    if request.adapter is not None:
        raise RequestError(
            "the runtime does not load adapters",
            hint="export the adapter first, then score it with --runtime-dir alone",
        )
    normalizer = normalizer_for(request.normalizer, _language(manifest))
    if request.keyterms is not None or request.base_runtime is not None:
        return [_arms(request, request.runtime_dir, manifest, normalizer, before, progress)]
    with RuntimeTranscriber(request.runtime_dir) as transcriber:
        return [
            score_manifest(
                transcriber, manifest, normalizer, progress, model=str(request.runtime_dir.name),
                before=before if one is CLEAN else None, condition=one,
            )
            for one in conditions
        ]  # fmt: skip


def _arms(
    request: EvaluateRequest,
    runtime_dir: Path,
    manifest: Manifest,
    normalizer: Normalizer,
    before: tuple[ScoredUtterance, ...] | None,
    progress: Progress,
) -> Evaluation:
    """Score base and adapted folder, each without and with the key terms.

    The evaluation is of the adapted folder with the key terms; it is compared with the first arm.
    """
    terms = read_key_terms(request.keyterms) if request.keyterms else ()
    folders = {"adapter" if request.base_runtime else "model": runtime_dir}
    if request.base_runtime:
        folders = {"base": request.base_runtime} | folders
    if terms:
        for folder in folders.values():
            check_takes_keyterms(read_layout(folder))
    arms: list[tuple[str, Evaluation]] = []
    for name, folder in folders.items():
        with RuntimeTranscriber(folder, boost=request.boost) as transcriber:
            arms.append((name, _heard(transcriber, folder, manifest, normalizer, progress, name)))
            if terms:
                transcriber.set_keyterms(terms)
                title = _with_terms(name)
                found = _heard(transcriber, folder, manifest, normalizer, progress, title)
                arms.append((title, found))
    first, last = arms[0][1], arms[-1][1]
    reference = before or first.scored
    rows = tuple(
        key_terms_arm(title, found.scored, terms, normalizer, first.scored) for title, found in arms
    )
    return replace(
        last,
        base=summarize(reference),
        comparison=compare_paired(reference, last.scored),
        keyterms=KeyTermsTable(terms, request.boost, rows),
    )


def _heard(
    transcriber: RuntimeTranscriber,
    folder: Path,
    manifest: Manifest,
    normalizer: Normalizer,
    progress: Progress,
    what: str,
) -> Evaluation:
    return score_manifest(transcriber, manifest, normalizer, progress, model=folder.name, what=what)


def _with_terms(name: str) -> str:
    return {"base": "key terms", "adapter": "adapter and key terms"}.get(name, "key terms")


def _through_torch(
    request: EvaluateRequest,
    manifest: Manifest,
    before: tuple[ScoredUtterance, ...] | None,
    progress: Progress,
    conditions: Sequence[Condition],
) -> list[Evaluation]:
    adapter = find_adapter(request.adapter) if request.adapter else None
    opened = open_model(
        request.model, adapter=adapter, device=request.device, dtype="float32", progress=progress
    )
    language = manifest.utterances[0].language or opened.language
    normalizer = normalizer_for(request.normalizer, language)
    transcriber = TorchTranscriber(opened.model, opened.limits)
    name = str(opened.base["name"])
    results = []
    for one in conditions:
        earlier = before if one is CLEAN else None
        if adapter is not None and request.score_base and earlier is None:
            with adapter_disabled(opened.model):
                base = score_manifest(
                    transcriber, manifest, normalizer, progress, model=name, what="base",
                    condition=one,
                )  # fmt: skip
            earlier = base.scored
        evaluation = score_manifest(
            transcriber,
            manifest,
            normalizer,
            progress,
            model=name,
            before=earlier,
            what="model" if adapter is None else "adapted",
            condition=one,
        )
        label = None if request.adapter is None else request.adapter.name
        results.append(replace(evaluation, adapter=label))
    return results


def score_manifest(
    transcriber: Transcriber,
    manifest: Manifest,
    normalizer: Normalizer,
    progress: Progress,
    *,
    model: str,
    before: Sequence[ScoredUtterance] | None = None,
    what: str = "model",
    condition: Condition = CLEAN,
) -> Evaluation:
    """Transcribe and score one manifest with one transcriber, under one condition."""
    begun = time.monotonic()
    where = "" if condition is CLEAN else f", {condition.name}"
    heard = transcribe_utterances(
        transcriber,
        manifest.utterances,
        progress,
        f"transcribing ({what}, {transcriber.backend}{where})",
        change=condition.change,
    )
    seconds = time.monotonic() - begun
    scored = tuple(
        score_utterance(
            utterance.id, utterance.reference, text, normalizer, speaker=utterance.speaker
        )
        for utterance, text in zip(manifest.utterances, heard.texts, strict=True)
    )
    return Evaluation(
        score=summarize(scored),
        scored=scored,
        audio_seconds=heard.audio_seconds,
        seconds=seconds,
        normalizer=normalizer.name,
        backend=transcriber.backend,
        model=model,
        adapter=None,
        manifest_sha256=manifest.sha256,
        base=summarize(before) if before is not None else None,
        comparison=compare_paired(before, scored) if before is not None else None,
        remarks=manifest.remarks,
    )
