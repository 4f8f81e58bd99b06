"""The parity gate of `export`: does the runtime compute what the trained model computes?

The runtime computes with 8-bit weights and activations, torch with floats, so single words may
differ; more than a few percent means that the exported model is not the trained one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.export.parity.graphs import GraphParity, ParityClip, check_graphs
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
from moonshine_tune.runs.records import RunRecord
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

DEFAULT_BOUND = 5.0
WER_POINTS = 0.5
_PARITY_CLIPS = 40
_GRAPH_CLIPS = 4
_CHUNKED_CLIPS = 8


@dataclass(frozen=True)
class ParityResult:
    """Words that differ, in percent of the expected words, and the clips in which they do.

    Attributes:
        examples: (expected text, the runtime's) of the first clips that differ.
        graphs: weights, outputs and tokens graph by graph, where they were compared.
        wer: torch's WER against the runtime's, where the clips have texts.
        chunked: for streaming models, clips fed in chunks as from a microphone against the same
            clips fed at once, both by the runtime.
    """

    word_difference: float
    bound: float
    clips: int
    identical: int
    words: int
    examples: tuple[tuple[str, str], ...]
    first_clip: str | None = None
    graphs: GraphParity | None = None
    wer: PairedComparison | None = None
    chunked: "ParityResult | None" = None

    @property
    def passed(self) -> bool:
        """Whether nothing differs beyond its bound."""
        return self.first_difference is None

    @property
    def first_difference(self) -> str | None:
        """The first difference, from the files up to the WER; None where there is none."""
        if self.graphs is not None and not self.graphs.passed:
            return self.graphs.first_difference
        if self.word_difference > self.bound:
            where = f", first on clip {self.first_clip}" if self.first_clip else ""
            return (
                f"transcripts: {self.word_difference:.2f} % of {self.words} words differ "
                f"(bound {self.bound:g} %){where}"
            )
        if not self.wer_is_kept:
            return f"WER: the runtime's is {self.wer_points:+.2f} points off (bound {WER_POINTS:g})"
        if self.chunked is not None and self.chunked.word_difference > self.chunked.bound:
            return (
                f"streaming: fed in chunks, {self.chunked.word_difference:.2f} % of "
                f"{self.chunked.words} words differ from clips fed at once (bound "
                f"{self.chunked.bound:g} %), first on clip {self.chunked.first_clip}"
            )
        return None

    @property
    def wer_points(self) -> float:
        """The runtime's WER minus torch's, in points; 0 without texts."""
        return self.wer.difference if self.wer else 0.0

    @property
    def wer_is_kept(self) -> bool:
        """Whether the runtime's WER is not shown to be more than half a point above torch's.

        Only the interval shows it: in a few hundred words the WER moves by a point when 8-bit
        activations change four of them, even with the base's own files.
        """
        return self.wer is None or min(self.wer_points, self.wer.ci95[0]) <= WER_POINTS

    def to_record(self) -> dict[str, Any]:
        """The parity part of `export.json`."""
        record: dict[str, Any] = {
            "passed": self.passed,
            "first_difference": self.first_difference,
            "word_difference": round(self.word_difference, 4),
            "bound": self.bound,
            "clips": self.clips,
            "identical": self.identical,
            "words": self.words,
            "examples": [list(pair) for pair in self.examples],
        }
        if self.wer is not None:
            wer = self.wer.to_record()
            record["wer"] = {
                "torch": wer["before"],
                "runtime": wer["after"],
                "difference": wer["difference"],
                "ci95": wer["ci95"],
                "kept": self.wer_is_kept,
            }
        if self.chunked is not None:
            chunked = self.chunked.to_record()
            names = ("word_difference", "clips", "identical", "words")
            record["chunked"] = {name: chunked[name] for name in names}
        return record | (self.graphs.to_record() if self.graphs is not None else {})


def parity_utterances(run: Path | None, manifest: Path | None) -> tuple[Utterance, ...]:
    """Clips for the gate: from the manifest, or else from the run's dev or training set.

    Raises:
        RequestError: no manifest is known, or it cannot be read.
    """
    path = manifest
    if path is None and run is not None and (run / "run.json").is_file():
        data = RunRecord.read(RunFolder(run).record_path).settings.get("data", {})
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
            )  # fmt: skip
    return replace(
        compare_transcripts(from_torch, from_runtime, normalizer, bound=bound, names=names),
        graphs=graphs,
        wer=_compare_wer(references, from_torch, from_runtime, normalizer),
        chunked=chunked,
    )


def _check_graphs(
    opened: OpenedModel,
    runtime_dir: Path,
    utterances: Sequence[Utterance],
    texts: Sequence[str],
) -> GraphParity:
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
) -> ParityResult:
    """Word difference of the runtime's transcripts against the expected ones of the same clips.

    Args:
        bound: percent of the expected words that may differ.
        names: ids of the clips.
    """
    counts = ErrorCounts()
    differing: list[int] = []
    for index, pair in enumerate(zip(expected, from_runtime, strict=True)):
        words = score_utterance(str(index), *pair, normalizer).words
        counts = counts + words
        if words.errors:
            differing.append(index)
    return ParityResult(
        word_difference=counts.rate,
        bound=bound,
        clips=len(expected),
        identical=len(expected) - len(differing),
        words=counts.reference,
        examples=tuple((expected[i], from_runtime[i]) for i in differing[:5]),
        first_clip=names[differing[0]] if names and differing else None,
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
