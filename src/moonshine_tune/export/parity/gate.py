"""The parity gate of `export`: does the runtime compute what the trained model computes?

The runtime computes with 8-bit weights and activations, torch with floats, so single words may
differ: about as many as with the untouched base and its own runtime files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.export.parity.base_pair import BasePair
from moonshine_tune.export.parity.clips import ParityClips
from moonshine_tune.export.parity.graphs import ParityClip, check_graphs
from moonshine_tune.export.parity.verdict import ClipTranscripts, judge, least_clips
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.inference.batching import fit_clip
from moonshine_tune.inference.transcribe import TorchTranscriber, Transcriber, transcribe_utterances
from moonshine_tune.metrics.wer import (
    ErrorCounts,
    PairedComparison,
    compare_paired,
    score_utterance,
)
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.records import (
    EQUAL,
    NOT_DECIDED,
    WORSE,
    AgainstBase,
    MarginRecord,
    ParityRecord,
    WerParity,
)
from moonshine_tune.runtime.formats import MOONSHINE, open_runtime
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.sherpa_transcriber import SherpaTranscriber
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

DEFAULT_BOUND = 5.0
WER_POINTS = 0.5
_GRAPH_CLIPS = 4
_CHUNKED_CLIPS = 8


def check_parity(
    opened: OpenedModel,
    runtime_dir: Path,
    clips: ParityClips,
    bound: float,
    progress: Progress,
    *,
    base: BasePair | None = None,
    judged_by: str = "the fixed bound",
    format_name: str = MOONSHINE,
) -> ParityRecord:
    """Compare a runtime folder with the model: graphs, tokens, transcripts, WER.

    Args:
        bound: percent of words that may differ; with a base, points beyond what its files differ.
        base: what words and WER are judged by; without it, a fixed bound.
        judged_by: the same in words.
        format_name: of the runtime that loads the folder.

    Raises:
        RequestError: the files cannot be loaded.
        ProblemsError: recordings that cannot be read.
    """
    normalizer = normalizer_for(None, opened.language)
    utterances = clips.first
    names = [utterance.id for utterance in utterances]
    torch = TorchTranscriber(opened.model, opened.limits)
    from_torch = transcribe_utterances(torch, utterances, progress, "parity (torch)").texts
    # Before the runtime loads them: what is wrong with a graph is named here.
    graphs = _check_graphs(opened, runtime_dir, utterances, from_torch)
    with open_runtime(format_name, runtime_dir) as runtime:
        from_runtime = transcribe_utterances(
            runtime, utterances, progress, f"parity ({runtime.backend})"
        ).texts
        chunked = None
        if isinstance(runtime, RuntimeTranscriber) and opened.model.family == "streaming":
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
        references = [utterance.text for utterance in utterances]
        wer = _compare_wer(references, from_torch, from_runtime, normalizer)
        against = None
        if base is not None and not graphs.passed:
            judged_by = "the files alone, which are not the trained model's"
        elif base is not None:
            known = _joined(utterances, (from_torch, from_runtime), base, progress)
            pair = _Pair(opened, runtime, progress)
            against = _judge_with_more(known, clips, pair, base, normalizer, bound)
    record = combine(transcripts, graphs, wer, chunked, against)
    advice = _advice(against, clips) if against and record.verdict == NOT_DECIDED else ""
    return record.model_copy(update={"judged_by": judged_by, "advice": advice})


@dataclass(frozen=True)
class _Pair:
    """The trained model in torch, and its runtime files."""

    opened: OpenedModel
    runtime: RuntimeTranscriber | SherpaTranscriber
    progress: Progress

    def transcribe(
        self, utterances: Sequence[Utterance], of: str
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Texts of both, of each utterance of a set in order."""
        torch = TorchTranscriber(self.opened.model, self.opened.limits)
        ways: tuple[Transcriber, ...] = (torch, self.runtime)
        first, second = (
            transcribe_utterances(
                way, utterances, self.progress, f"parity ({way.backend}), {of}"
            ).texts
            for way in ways
        )
        return first, second


def _joined(
    utterances: Sequence[Utterance],
    adapted: tuple[Sequence[str], Sequence[str]],
    base: BasePair,
    progress: Progress,
) -> list[ClipTranscripts]:
    """The transcripts of each clip, with those of the base."""
    texts = (*adapted, *base.transcribe(utterances, progress))
    references = [utterance.text for utterance in utterances]
    return [ClipTranscripts(*item) for item in zip(references, *texts, strict=True)]


def _judge_with_more(
    known: list[ClipTranscripts],
    clips: ParityClips,
    pair: _Pair,
    base: BasePair,
    normalizer: Normalizer,
    bound: float,
) -> AgainstBase:
    """Judge the clips; where they do not decide, add more until they do or none is left.

    The clips of the set are judged by themselves too: much general speech must not hide that they
    got worse.
    """
    record, own = judge(known, normalizer, bound), list(known)
    everything, sources = list(known), {clips.name: len(known)}
    blocks = clips.further(pair.opened.language, least_clips(bound))
    while record.verdict == NOT_DECIDED and (block := next(blocks, None)):
        name, utterances = block
        pair.progress.say(f"parity is not decided on {len(everything)} clips: adding {name}")
        try:
            more = _joined(utterances, pair.transcribe(utterances, name), base, pair.progress)
        except ProblemsError as error:
            # They were not asked for: the export does not fail by them.
            pair.progress.say(f"parity goes without these clips of {name}: {error.message}")
            continue
        everything += more
        sources[name] = sources.get(name, 0) + len(more)
        own += more if name == clips.name else []
        record = judge(own, normalizer, bound)
        if record.verdict != WORSE and len(own) < len(everything):
            record = judge(everything, normalizer, bound)
    general = len(everything) - len(own)
    return record.model_copy(update={"general_clips": general, "sources": sources})


def _advice(against: AgainstBase, clips: ParityClips) -> str:
    """What to record so that it can be decided."""
    open_parts = [part for part in (against.words, against.wer) if part and part.clips_needed]
    undecided = [part for part in open_parts if part.verdict == NOT_DECIDED]
    is_wer = against.wer is not None and against.wer.verdict == NOT_DECIDED
    kind = f"like those of {clips.name}" + (", with texts," if is_wer else "")
    if not undecided or len(undecided) < sum(
        part is not None and part.verdict == NOT_DECIDED for part in (against.words, against.wer)
    ):
        return (
            f"the difference is close to the margin: more than 2,000 clips {kind} would be needed; "
            "export with --method trace or --scales channel to get closer to torch"
        )
    more = max(max(part.clips_needed or 0, part.clips + 10) - part.clips for part in undecided)
    return f"about {more} more clips {kind} would decide: name them with --manifest"


def combine(
    transcripts: ParityRecord,
    graphs: ParityRecord | None = None,
    wer: PairedComparison | None = None,
    chunked: ParityRecord | None = None,
    against: AgainstBase | None = None,
) -> ParityRecord:
    """One record of all comparisons; its first difference goes from the files up to the WER.

    Without a base, words have a fixed bound, and only the interval of the WER shows a loss: in a
    few hundred words the WER moves by a point when 8-bit activations change four of them.

    Args:
        wer: from torch to the runtime.
        against: words and WER beside the base's; they then have no fixed bound.
    """
    parts: dict[str, Any] = {}
    messages = [graphs and graphs.first_difference]
    messages.append(difference_text(against) if against else transcripts.first_difference)
    if wer is not None:
        kept = min(wer.difference, wer.ci95[0]) <= WER_POINTS
        if against is not None:
            kept = against.wer is None or against.wer.verdict != WORSE
        elif not kept:
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
    if against is not None:
        parts["against_base"] = against
    first = next((message for message in messages if message), None)
    verdict = WORSE if first else against.verdict if against else EQUAL
    passed = {EQUAL: True, WORSE: False}.get(verdict)
    return transcripts.model_copy(
        update=parts | {"passed": passed, "verdict": verdict, "first_difference": first}
    )


def difference_text(against: AgainstBase) -> str | None:
    """What is worse than the base's own files, or None."""
    for name, part in (("words", against.words), ("WER", against.wer)):
        if part is not None and part.verdict == WORSE:
            return f"{name}: {margin_text(part)}"
    return None


def margin_text(part: MarginRecord) -> str:
    """For example `+2.50 points from torch to the runtime, base +1.00, beyond it +1.50 […]`."""
    low, high = part.ci95
    return (
        f"{part.adapted:+.2f} points from torch to the runtime, the base's own files "
        f"{part.base:+.2f}; beyond them {part.difference:+.2f} [{low:+.2f}, {high:+.2f}] on "
        f"{part.clips} clips (margin {part.margin:g})"
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
    record = check_graphs(read_layout(runtime_dir), model, model_tensors(model), clips)
    model.module.to(opened.device.device)
    return record


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
