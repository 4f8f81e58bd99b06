"""`evaluate`: score a model on a manifest, through torch or the runtime, base against adapted."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.audio.fingerprint import known_fingerprints
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import check_writable, holds_out, read_lines, sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.aliases.apply_aliases import apply_aliases
from moonshine_tune.corpus.keyterms import DEFAULT_BOOST, read_key_terms
from moonshine_tune.corpus.manifest import Manifest, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.corpus.speaker_labels import joined_to_recordings, local_labels
from moonshine_tune.corpus.voices import tiny_set_remark
from moonshine_tune.evaluation.noise_conditions import (
    CLEAN,
    Condition,
    ConditionsRequest,
    conditions_of,
)
from moonshine_tune.evaluation.results import (
    Earlier,
    Evaluation,
    Scored,
    SystemScore,
    count_key_terms,
    earlier_evaluation,
    write_evaluation,
)
from moonshine_tune.evaluation.scored_run import known_clips, remarks_on_run
from moonshine_tune.inference.drafts import DraftStore
from moonshine_tune.inference.transcribe import TorchTranscriber, Transcriber, transcribe_utterances
from moonshine_tune.metrics.metric import extra_metrics
from moonshine_tune.metrics.wer import (
    compare_paired,
    score_utterance,
    score_utterances,
    summarize,
)
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import adapter_disabled, find_adapter
from moonshine_tune.registry.open import open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import AliasesRecord, ExportRecord, KeyTermsRecord
from moonshine_tune.runs.split_record import voices_of_run
from moonshine_tune.runtime.formats import SHERPA_ONNX
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.sherpa_transcriber import SherpaTranscriber
from moonshine_tune.runtime.transcriber import RuntimeTranscriber, check_takes_keyterms

# The variants of files that were exported from an adapter, and of the adapter that it started at.
BACKENDS = ("torch", "runtime", SHERPA_ONNX)
_EXPORTED, _PARENT = "exported", "parent"


@dataclass(frozen=True)
class EvaluateRequest:
    """What to score.

    Attributes:
        backend: `torch`; with `runtime_dir` `runtime`, or `sherpa-onnx` to load it there.
        adapter: run or adapter folder; the base is scored too, for the comparison, and the adapter
            that its run started at.
        runtime_dir: runtime folder; with `adapter` the files exported from it, which are scored
            beside the adapted model in torch.
        conditions: noises and rooms under which to score too.
        compare: folder of an earlier evaluation of the same manifest, for the comparison.
        keyterms: file of terms whose recall is counted. The runtime boosts them with strength
            `boost`, and is scored without them too; torch boosts nothing.
        base_runtime: the base's runtime folder, scored in the same way: adapter, key terms, both.
        context: text file: a passage from which the runtime picks terms and boosts them; it is
            scored without it too.
        aliases: file of `data aliases`: each system is also scored with aliases mapped back. With
            `keyterms`, the runtime also boosts the aliases of these terms.
    """

    manifest: Path
    model: str | None = None
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
    aliases: Path | None = None
    context: Path | None = None


@holds_out(lambda request, out, progress: out)
def evaluate(request: EvaluateRequest, out: Path | None, progress: Progress) -> Evaluation:
    """Score a manifest; with `out`, write result.json and hypotheses.jsonl there.

    Raises:
        RequestError: wrong input, or options that exclude each other.
    """
    _check(request)
    if out is not None:
        check_writable(out, is_folder=True)
    manifest = _with_voices(read_manifest(request.manifest))
    earlier = earlier_evaluation(request.compare, manifest) if request.compare else None
    # Before the model is loaded: a folder without audio or a list without terms fails at once.
    conditions = conditions_of(request.conditions) if request.conditions else (CLEAN,)
    terms = read_key_terms(request.keyterms) if request.keyterms else ()
    aliases = AliasesRecord.read(request.aliases) if request.aliases else AliasesRecord()
    context = "\n".join(read_lines(request.context)) if request.context else ""
    boosts = _Boosts(terms, aliases, context)

    # An earlier evaluation takes the place of the base, which is then not scored again.
    skips_base = earlier is not None and request.backend == "torch"
    scores: dict[Condition, dict[str, Evaluation]] = {condition: {} for condition in conditions}
    for variant in _open_variants(request, manifest, boosts, progress):
        for condition in conditions:
            if not (skips_base and variant.name == "base" and condition is CLEAN):
                scores[condition][variant.name] = score_manifest(
                    variant, manifest, progress, condition
                )

    results = []
    for condition, by_variant in scores.items():
        first, *_ = by_variant.values()
        *_, result = by_variant.values()
        # Exported files are shown beside the model that they were exported from.
        result = by_variant["adapted"] if _EXPORTED in by_variant else result
        before = Earlier(first.scored, first.normalizer) if result is not first else None
        if earlier is not None and condition is CLEAN:
            before = earlier
        results.append(result if before is None else result.compared_with(before))
    evaluation = results[0]
    if request.adapter is not None and len(scores[CLEAN]) > 1:
        evaluation = replace(evaluation, systems=_systems(scores[CLEAN]))
    if request.conditions:
        evaluation = replace(evaluation, conditions=tuple(results))
    if terms or request.base_runtime or request.context:
        boost = request.boost if request.backend == "runtime" else None
        keyterms = _key_term_record(terms, boost, scores[CLEAN])
        evaluation = replace(evaluation, keyterms=keyterms)
    if request.aliases:
        evaluation = replace(evaluation, aliases=_aliases_record(aliases, scores[CLEAN]))
    evaluation = _judged_by_run(evaluation, request.adapter, manifest)
    if out is not None:
        write_evaluation(out, evaluation)
    return evaluation


def _judged_by_run(evaluation: Evaluation, adapter: Path | None, manifest: Manifest) -> Evaluation:
    """The evaluation with what its manifest, and the run of the adapter, say about its worth."""
    known = None if adapter is None else known_clips(adapter, manifest)
    remarks = [*evaluation.remarks]
    if adapter is not None:
        remarks += remarks_on_run(adapter, manifest)
    remarks += known.sentences if known else ()
    words = evaluation.score.words.reference
    if tiny := tiny_set_remark("the manifest", manifest.utterances, words):
        remarks.append(tiny)
    voices = voices_of_run(adapter, manifest)
    return replace(evaluation, voices=voices, known_clips=known, remarks=tuple(remarks))


def _with_voices(manifest: Manifest) -> Manifest:
    """The manifest with labels of speakers that start anew in each recording joined to it.

    `SPEAKER_00` of two recordings would be one line of the hardest speakers.
    """
    labels = [item for item in local_labels(manifest.utterances) if item.is_certain]
    return replace(manifest, utterances=joined_to_recordings(manifest.utterances, labels))


def _check(request: EvaluateRequest) -> None:
    uses_terms = request.keyterms or request.base_runtime or request.context
    if request.backend not in BACKENDS:
        raise RequestError(
            f"no back end is called {request.backend!r}", hint=f"one of: {', '.join(BACKENDS)}"
        )
    if request.backend == "torch" and (
        request.base_runtime or request.context or request.boost != DEFAULT_BOOST
    ):
        raise RequestError(
            "only the runtime applies key terms: torch counts them and boosts nothing",
            hint="name the exported folder: --runtime-dir D --keyterms terms.txt; or leave out "
            "--base-runtime, --context and --boost",
        )
    if request.conditions and uses_terms:
        raise RequestError(
            "key terms and noise conditions cannot be combined",
            hint="leave out --conditions, or --keyterms, --context and --base-runtime",
        )
    if request.backend == SHERPA_ONNX and uses_terms:
        raise RequestError(
            "sherpa-onnx applies no key terms to Moonshine models",
            hint="leave out --keyterms, --context and --base-runtime, or --backend sherpa-onnx",
        )
    if request.backend != "torch" and request.runtime_dir is None:
        raise RequestError(
            f"the {request.backend} back end needs a runtime folder",
            hint="name it with --runtime-dir; `moonshine-tune export` writes one",
        )
    if request.backend != "torch" and request.adapter is not None:
        raise RequestError(
            f"{'the runtime' if request.backend == 'runtime' else request.backend} does not load "
            "adapters",
            hint="export the adapter first, then score it with --runtime-dir alone; to score both "
            "side by side, leave out --backend",
        )
    if request.runtime_dir and request.adapter:
        _check_side_by_side(request.runtime_dir, request.adapter, request.conditions is not None)


def _check_side_by_side(runtime_dir: Path, adapter: Path, has_conditions: bool) -> None:
    if has_conditions:
        raise RequestError(
            "torch and runtime side by side are scored without noise only",
            hint="leave out --conditions, or --runtime-dir",
        )
    # Before the model is loaded: a wrong folder fails at once.
    read_layout(runtime_dir)
    origin = exported_from(runtime_dir)
    if origin not in (None, sha256_of(find_adapter(adapter) / ADAPTER_WEIGHTS_FILE)):
        raise RequestError(
            f"these runtime files were exported from another adapter than {adapter}",
            where=runtime_dir,
            hint=f"export it: moonshine-tune export --run {quoted(adapter)} --out FOLDER",
        )


def _systems(by_variant: dict[str, Evaluation]) -> tuple[SystemScore, ...]:
    """All that were scored with an adapter.

    Exported files come with their change from torch, the adapter before with the change from it.
    """
    systems = []
    for name, evaluation in by_variant.items():
        change, adapted = None, by_variant["adapted"]
        if name == _EXPORTED:
            change = compare_paired(adapted.scored, evaluation.scored)
        elif name == _PARENT:
            change = compare_paired(evaluation.scored, adapted.scored)
        side = name if name in ("base", _PARENT) else "adapted"
        systems.append(SystemScore(side, evaluation, change))
    return tuple(systems)


@dataclass(frozen=True)
class _Boosts:
    """What the runtime is led to write: listed terms, their aliases, and a passage."""

    terms: tuple[str, ...]
    aliases: AliasesRecord
    context: str


@dataclass(frozen=True)
class Variant:
    """One of the systems that are compared, ready to transcribe.

    `exported` is the hash of what runtime files were exported from, `adapter_sha256` that of the
    matrices of an adapter in torch.
    """

    name: str
    model: str
    adapter: str | None
    transcriber: Transcriber
    normalizer: Normalizer
    exported: str | None = None
    adapter_sha256: str | None = None


def _open_variants(
    request: EvaluateRequest,
    manifest: Manifest,
    boosts: "_Boosts",
    progress: Progress,
) -> Iterator[Variant]:
    """The variants one after the other, the base first; each is valid until the next one."""
    language = manifest.utterances[0].language
    if request.runtime_dir is not None and request.backend != "torch":
        normalizer = normalizer_for(request.normalizer, language or "en")
        yield from _open_runtime_variants(request, request.runtime_dir, boosts, normalizer)
        return
    adapter = find_adapter(request.adapter) if request.adapter else None
    adapters: dict[str, Path | None] = {"model" if adapter is None else "adapted": adapter}
    if adapter is not None and request.score_base and (before := _parent_of(adapter)) is not None:
        adapters = {_PARENT: before, **adapters}
    scores_base = adapter is not None and request.score_base
    drafts = DraftStore() if scores_base else None
    for name, own in adapters.items():
        opened = open_model(
            request.model, adapter=own, device=request.device, dtype="float32", progress=progress
        )
        normalizer = normalizer_for(request.normalizer, language or opened.language)
        transcriber = TorchTranscriber(opened.model, opened.limits, drafts)
        model = str(opened.base["name"])
        if scores_base:
            scores_base = False
            with adapter_disabled(opened.model):
                yield Variant("base", model, None, transcriber, normalizer)
        label = None if request.adapter is None else request.adapter.name
        digest = None if own is None else sha256_of(own / ADAPTER_WEIGHTS_FILE)
        yield Variant(name, model, label, transcriber, normalizer, adapter_sha256=digest)
        # One model in memory at a time.
        del opened, transcriber
    if adapter is not None and request.runtime_dir is not None:
        folder = request.runtime_dir
        with RuntimeTranscriber(folder) as runtime:
            yield Variant(_EXPORTED, folder.name, None, runtime, normalizer, exported_from(folder))


def _open_runtime_variants(
    request: EvaluateRequest, runtime_dir: Path, boosts: "_Boosts", normalizer: Normalizer
) -> Iterator[Variant]:
    """Exported files, and the base's if they are named: as they are, and with what is boosted."""
    if request.backend == SHERPA_ONNX:
        with SherpaTranscriber(runtime_dir) as sherpa:
            exported = exported_from(runtime_dir)
            yield Variant("model", runtime_dir.name, None, sherpa, normalizer, exported)
        return
    folders = {"adapter" if request.base_runtime else "model": runtime_dir}
    if request.base_runtime:
        folders = {"base": request.base_runtime} | folders
    for folder in folders.values() if boosts.terms or boosts.context else ():
        check_takes_keyterms(read_layout(folder))
    for name, folder in folders.items():
        prefix = "adapter and " if name == "adapter" else ""
        with RuntimeTranscriber(folder, boost=request.boost) as runtime:
            yield Variant(name, folder.name, None, runtime, normalizer, exported_from(folder))
            if boosts.terms:
                runtime.set_keyterms(boosts.terms)
                yield Variant(f"{prefix}key terms", folder.name, None, runtime, normalizer)
                if boosted := boosts.aliases.of(boosts.terms):
                    # What the model is led to write is then mapped back.
                    runtime.set_keyterms([*boosts.terms, *boosted])
                    with_aliases = f"{prefix}key terms and their aliases"
                    yield Variant(with_aliases, folder.name, None, runtime, normalizer)
            if boosts.context:
                runtime.set_context(boosts.context)
                yield Variant(f"{prefix}context", folder.name, None, runtime, normalizer)


def _parent_of(adapter_dir: Path) -> Path | None:
    """The adapter that the run of an adapter started at, in the run's folder; None for the base."""
    run = RunFolder(adapter_dir.absolute().parent)
    is_of_run = run.record_path.is_file() and run.adapter_dir == adapter_dir.absolute()
    return run.parent_dir if is_of_run and run.parent_dir.is_dir() else None


def exported_from(folder: Path) -> str | None:
    """Hash of the adapter or checkpoint that a runtime folder was exported from, if it was."""
    with suppress(RequestError):
        record = ExportRecord.read(folder / "export.json")
        return record.adapter_sha256 or record.checkpoint_sha256
    return None


def _key_term_record(
    terms: tuple[str, ...], boost: float | None, by_variant: dict[str, Evaluation]
) -> KeyTermsRecord:
    """The variants side by side: base, adapter, key terms, and both; changes from the first one.

    Args:
        boost: None where the terms are only counted.
    """
    first, *_ = by_variant.values()
    normalizer = normalizer_for(first.normalizer)
    variants = [
        _terms_arm(name, terms, first.scored, evaluation.scored, normalizer)
        for name, evaluation in by_variant.items()
    ]
    return KeyTermsRecord.model_validate({"boost": boost, "terms": len(terms), "arms": variants})


def _terms_arm(
    name: str, terms: tuple[str, ...], first: Scored, scored: Scored, normalizer: Normalizer
) -> dict[str, Any]:
    """Score and counts of listed terms of one system; its change from the first one."""
    return {
        "arm": name,
        **summarize(scored).to_record(),
        **count_key_terms(terms, scored, normalizer).to_record(),
        "change": compare_paired(first, scored).to_record(),
    }


def _aliases_record(aliases: AliasesRecord, by_variant: dict[str, Evaluation]) -> KeyTermsRecord:
    """Each variant as it is, and with aliases mapped back; changes from the first one."""
    arms = []
    first, *_ = by_variant.values()
    for name, evaluation in by_variant.items():
        normalizer = normalizer_for(evaluation.normalizer)
        mapped = tuple(
            score_utterance(
                item.id,
                item.reference,
                apply_aliases(item.hypothesis, aliases.aliases),
                normalizer,
                speaker=item.speaker,
                seconds=item.seconds,
            )
            for item in evaluation.scored
        )
        for arm, scored in ((name, evaluation.scored), (f"{name}, aliases mapped back", mapped)):
            arms.append(_terms_arm(arm, aliases.names, first.scored, scored, normalizer))
    return KeyTermsRecord.model_validate({"terms": len(aliases.names), "arms": arms})


def score_manifest(
    variant: Variant, manifest: Manifest, progress: Progress, condition: Condition = CLEAN
) -> Evaluation:
    """Transcribe and score one manifest, under one condition."""
    start_time = time.monotonic()
    where = "" if condition is CLEAN else f", {condition.name}"
    transcripts = transcribe_utterances(
        variant.transcriber,
        manifest.utterances,
        progress,
        f"transcribing ({variant.name}, {variant.transcriber.backend}{where})",
        change=condition.change,
    )
    seconds = time.monotonic() - start_time
    scored = score_utterances(
        manifest.utterances,
        transcripts.texts,
        variant.normalizer,
        seconds=transcripts.seconds,
        recordings=known_fingerprints(manifest.utterances),
    )
    return Evaluation(
        score=summarize(scored),
        scored=scored,
        audio_seconds=transcripts.audio_seconds,
        seconds=seconds,
        normalizer=variant.normalizer.name,
        backend=variant.transcriber.backend,
        model=variant.model,
        adapter=variant.adapter,
        manifest_sha256=manifest.sha256,
        set_name=manifest.title,
        condition=condition,
        remarks=manifest.remarks,
        exported=variant.exported,
        adapter_sha256=variant.adapter_sha256,
        metrics=tuple(metric.score(scored, variant.normalizer) for metric in extra_metrics()),
    )
