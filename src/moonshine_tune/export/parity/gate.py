"""The parity gate of `export`: is what the runtime loads the model that was trained?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.export.parity.graphs import (
    GraphParity,
    ParityClip,
    check_graphs,
    merged_state,
)
from moonshine_tune.export.parity.transcripts import (
    ChunkedParity,
    ParityResult,
    compare_chunked,
    compare_transcripts,
    compare_wer,
)
from moonshine_tune.inference.batching import fit_clip
from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
from moonshine_tune.models.merge import merged_weights
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

_PARITY_CLIPS = 40
_GRAPH_CLIPS = 4
_CHUNKED_CLIPS = 8


def parity_utterances(run: Path | None, manifest: Path | None) -> tuple[Utterance, ...]:
    """Clips for the gate: those of the manifest, else of the run's dev or training set.

    Raises:
        RequestError: no manifest is known, or it cannot be read.
    """
    path = manifest
    if path is None and run is not None and (run / "run.json").is_file():
        data = RunFolder.open(run).read_record().get("settings", {}).get("data", {})
        named = data.get("dev") or data.get("train")
        path = Path(named) if named else None
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
) -> ParityResult:
    """Compare a runtime folder with the model: graphs, tokens, transcripts, WER.

    The model is on the CPU afterwards.

    Raises:
        RequestError: the files cannot be loaded.
        ProblemsError: recordings that cannot be read.
    """
    transcriber = TorchTranscriber(opened.model, opened.limits)
    said = transcribe_utterances(transcriber, utterances, progress, "parity (torch)").texts
    graphs = _check_graphs(opened, runtime_dir, utterances, said)
    normalizer = normalizer_for(None, opened.language)
    with RuntimeTranscriber(runtime_dir) as runtime:
        heard = transcribe_utterances(runtime, utterances, progress, "parity (runtime)").texts
        chunked = None
        if opened.model.family == "streaming":
            chunked = _chunked(runtime, utterances, heard, normalizer, bound)
    names = [utterance.id for utterance in utterances]
    result = compare_transcripts(said, heard, normalizer, bound=bound, names=names)
    references = [utterance.text for utterance in utterances]
    return replace(
        result,
        graphs=graphs,
        wer=compare_wer(references, said, heard, normalizer),
        chunked=chunked,
    )


def _chunked(
    runtime: RuntimeTranscriber,
    utterances: Sequence[Utterance],
    heard: Sequence[str],
    normalizer: Normalizer,
    bound: float,
) -> ChunkedParity:
    """A few clips once more, fed in chunks."""
    rows = _spread(heard, _CHUNKED_CLIPS)
    texts = [runtime.transcribe_in_chunks(load_utterance(utterances[row])) for row in rows]
    return compare_chunked(
        [heard[row] for row in rows], texts, normalizer, bound=bound,
        names=[utterances[row].id for row in rows],
    )  # fmt: skip


def _check_graphs(
    opened: OpenedModel,
    runtime_dir: Path,
    utterances: Sequence[Utterance],
    said: Sequence[str],
) -> GraphParity:
    model = opened.model
    # onnxruntime computes on the CPU: so does its counterpart.
    model.module.to("cpu")
    merged = {name: value.numpy() for name, value in merged_weights(model).items()}
    clips = [
        ParityClip(
            utterances[i].id,
            np.ascontiguousarray(fit_clip(model, load_utterance(utterances[i]))),
            said[i],
        )
        for i in _spread(said, _GRAPH_CLIPS)
    ]
    return check_graphs(read_layout(runtime_dir), model, merged_state(model, merged), clips)


def _spread(said: Sequence[str], at_most: int) -> list[int]:
    """A few clips in which something was heard, from the shortest text to the longest."""
    rows = sorted((i for i, text in enumerate(said) if text), key=lambda i: (len(said[i]), i))
    if len(rows) <= at_most:
        return rows
    last = len(rows) - 1
    return [rows[round(place * last / (at_most - 1))] for place in range(at_most)]


def parity_record(parity: ParityResult) -> dict[str, Any]:
    """The parity part of `export.json`."""
    record: dict[str, Any] = {
        "passed": parity.passed,
        "first_difference": parity.first_difference,
        "word_difference": round(parity.word_difference, 4),
        "bound": parity.bound,
        "clips": parity.clips,
        "identical": parity.identical,
        "words": parity.words,
        "examples": [list(pair) for pair in parity.examples],
    }
    if parity.wer is not None:
        record["wer"] = {
            "torch": round(parity.wer.before, 4),
            "runtime": round(parity.wer.after, 4),
            "difference": round(parity.wer_points, 4),
            "ci95": [round(value, 4) for value in parity.wer.ci95],
            "kept": parity.wer_is_kept,
        }
    if parity.chunked is not None:
        record["chunked"] = {
            "word_difference": round(parity.chunked.word_difference, 4),
            "clips": parity.chunked.clips,
            "identical": parity.chunked.identical,
            "words": parity.chunked.words,
        }
    if parity.graphs is not None:
        record |= _graphs_record(parity.graphs)
    return record


def _graphs_record(graphs: GraphParity) -> dict[str, Any]:
    return {
        "graphs": [
            {
                "graph": item.graph,
                "output": item.output,
                "max": _rounded(item.maximum),
                "mean": _rounded(item.mean),
                "relative": _rounded(item.relative),
                "bound": item.bound,
                "clip": item.clip,
                "passed": item.passed,
            }
            for item in graphs.outputs
        ],
        "weights": {
            "checked": graphs.weights_checked,
            "different": [
                {"graph": w.graph, "tensor": w.tensor, "relative": _rounded(w.relative)}
                for w in graphs.weight_differences
            ],
            "note": graphs.weights_note,
        },
        "tokens": {"count": graphs.tokens, "agreement": round(graphs.token_agreement, 4)},
        "window_rule": graphs.window_rule,
    }


def _rounded(value: float) -> float | None:
    """JSON knows no infinity."""
    return round(value, 6) if np.isfinite(value) else None
