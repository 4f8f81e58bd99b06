"""The parity gate of `export`: does the runtime compute what the trained model computes?

The runtime computes with 8-bit weights and activations, torch with floats, so single words may
differ; more than a few percent means that the exported model is not the trained one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.export.parity.graphs import ParityClip, check_graphs
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.inference.batching import fit_clip
from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
from moonshine_tune.metrics.wer import (
    ErrorCounts,
    PairedComparison,
    compare_paired,
    score_utterance,
)
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.records import ParityRecord, WerParity
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

DEFAULT_BOUND = 5.0
WER_POINTS = 0.5
_PARITY_CLIPS = 40
_GRAPH_CLIPS = 4
_CHUNKED_CLIPS = 8


def parity_utterances(run: Path | None, manifest: Path | None) -> tuple[Utterance, ...]:
    """Clips for the gate: from the manifest, or else from the run's dev or training set.

    Raises:
        RequestError: no manifest is known, or it cannot be read.
    """
    path = manifest
    if path is None and run is not None and (run / "run.json").is_file():
        record = RunFolder.open(run).read_record()
        name = "data.dev" if record.settings.get("data", {}).get("dev") else "data.train"
        files = locate(run, record, (name,))
        if files.missing:
            raise RequestError(
                f"{files.describe_missing(name)}: the parity gate needs its clips",
                where=run,
                hint="name clips with --manifest FILE, or record once where the files are: "
                f"{files.resume_command}",
            )
        path = files.present.get(name)
    if path is None:
        raise RequestError(
            "the parity gate needs real clips", hint="name a manifest with --manifest test.jsonl"
        )
    return read_manifest(path, require_text=False).utterances[:_PARITY_CLIPS]


def check_parity(
    opened: OpenedModel,
    runtime_dir: Path,
    utterances: tuple[Utterance, ...],
    bound: float,
    progress: Progress,
) -> ParityRecord:
    """Compare a runtime folder with the model: graphs, tokens, transcripts, WER.

    The model is on the CPU afterwards.

    Raises:
        RequestError: the files cannot be loaded.
        ProblemsError: recordings that cannot be read.
    """
    normalizer = normalizer_for(None, opened.language)
    names = [utterance.id for utterance in utterances]
    references = [utterance.text for utterance in utterances]
    transcriber = TorchTranscriber(opened.model, opened.limits)
    from_torch = transcribe_utterances(transcriber, utterances, progress, "parity (torch)").texts
    graphs = _check_graphs(opened, runtime_dir, utterances, from_torch)
    with RuntimeTranscriber(runtime_dir) as runtime:
        from_runtime = transcribe_utterances(
            runtime, utterances, progress, "parity (runtime)"
        ).texts
        chunked = None
        if opened.model.family == "streaming":
            chosen = _spread_by_length(from_runtime, _CHUNKED_CLIPS)
            chunked = compare_transcripts(
                [from_runtime[i] for i in chosen],
                [runtime.transcribe_in_chunks(load_utterance(utterances[i])) for i in chosen],
                normalizer, bound=bound, names=[names[i] for i in chosen],
                label="streaming: fed in chunks,", versus=" from clips fed at once",
            )  # fmt: skip
    transcripts = compare_transcripts(
        from_torch, from_runtime, normalizer, bound=bound, names=names
    )
    wer = _compare_wer(references, from_torch, from_runtime, normalizer)
    return combine(transcripts, graphs, wer, chunked)


def combine(
    transcripts: ParityRecord,
    graphs: ParityRecord | None = None,
    wer: PairedComparison | None = None,
    chunked: ParityRecord | None = None,
) -> ParityRecord:
    """One record of all comparisons; its first difference goes from the files up to the WER.

    Only the interval of the WER shows a loss: in a few hundred words the WER moves by a point when
    8-bit activations change four of them, even with the base's own files.

    Args:
        wer: from torch to the runtime.
    """
    parts: dict[str, Any] = {}
    messages = [graphs and graphs.first_difference, transcripts.first_difference]
    if wer is not None:
        kept = min(wer.difference, wer.ci95[0]) <= WER_POINTS
        if not kept:
            messages.append(
                f"WER: the runtime's is {wer.difference:+.2f} points off (bound {WER_POINTS:g})"
            )
        record = wer.to_record()
        parts["wer"] = WerParity(
            torch=record["before"], runtime=record["after"], difference=record["difference"],
            ci95=record["ci95"], kept=kept,
        )  # fmt: skip
    if chunked is not None:
        messages.append(chunked.first_difference)
        names = ("word_difference", "clips", "identical", "words")
        parts["chunked"] = ParityRecord(**{name: getattr(chunked, name) for name in names})
    if graphs is not None:
        parts |= {name: getattr(graphs, name) for name in graphs.model_fields_set}
    first = next((message for message in messages if message), None)
    return transcripts.model_copy(
        update=parts | {"passed": first is None, "first_difference": first}
    )


def _check_graphs(
    opened: OpenedModel,
    runtime_dir: Path,
    utterances: Sequence[Utterance],
    texts: Sequence[str],
) -> ParityRecord:
    model = opened.model
    # onnxruntime computes on the CPU: torch does the same for the comparison.
    model.module.to("cpu")
    clips = [
        ParityClip(
            utterances[i].id,
            np.ascontiguousarray(fit_clip(model, load_utterance(utterances[i]))),
            texts[i],
        )
        for i in _spread_by_length(texts, _GRAPH_CLIPS)
    ]
    return check_graphs(read_layout(runtime_dir), model, model_tensors(model), clips)


def _spread_by_length(texts: Sequence[str], at_most: int) -> list[int]:
    """Indices of a few texts that are not empty, from the shortest to the longest."""
    indices = sorted((i for i, text in enumerate(texts) if text), key=lambda i: (len(texts[i]), i))
    return [indices[position] for position in evenly_spaced(len(indices), at_most)]


def compare_transcripts(
    expected: Sequence[str],
    from_runtime: Sequence[str],
    normalizer: Normalizer,
    *,
    bound: float = DEFAULT_BOUND,
    names: Sequence[str] | None = None,
    label: str = "transcripts:",
    versus: str = "",
) -> ParityRecord:
    """Word difference of the runtime's transcripts against the expected ones of the same clips.

    Args:
        bound: percent of the expected words that may differ.
        names: ids of the clips.
        label, versus: what is compared, for the message.
    """
    counts = ErrorCounts()
    differing: list[int] = []
    for index, pair in enumerate(zip(expected, from_runtime, strict=True)):
        words = score_utterance(str(index), *pair, normalizer).words
        counts = counts + words
        if words.errors:
            differing.append(index)
    first = None
    if counts.rate > bound:
        where = f", first on clip {names[differing[0]]}" if names and differing else ""
        first = (
            f"{label} {counts.rate:.2f} % of {counts.reference} words differ{versus} "
            f"(bound {bound:g} %){where}"
        )
    return ParityRecord(
        passed=first is None,
        first_difference=first,
        word_difference=round(counts.rate, 4),
        bound=bound,
        clips=len(expected),
        identical=len(expected) - len(differing),
        words=counts.reference,
        examples=[(expected[i], from_runtime[i]) for i in differing[:5]],
    )


def _compare_wer(
    references: Sequence[str | None],
    from_torch: Sequence[str],
    from_runtime: Sequence[str],
    normalizer: Normalizer,
) -> PairedComparison | None:
    """WER of both on the same clips, from torch to the runtime; None where texts are missing."""
    if not references or any(not text for text in references):
        return None
    torch_scored, runtime_scored = (
        [
            score_utterance(str(index), reference or "", text, normalizer)
            for index, (reference, text) in enumerate(zip(references, texts, strict=True))
        ]
        for texts in (from_torch, from_runtime)
    )
    return compare_paired(torch_scored, runtime_scored)
