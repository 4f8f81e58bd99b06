"""Whether the base model understands synthetic clips, so that mispronounced ones are left out.

A clip is understood if enough of its letters are in what the base model writes. Terms are excepted:
a rare term may be misheard, which is why it is trained, but its carrier sentence may not.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import NORMALIZERS
from moonshine_tune.inference.base_transcripts import base_transcripts
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.registry.resolve import cached_model

# Below this share of common letters a person would not take the two for the same sentence. Radio
# phraseology in a voice that the base knows badly has about 0.7.
LEAST_AGREEMENT = 0.5
# A text with fewer letters cannot be judged: a letter or a "no" alone is often misheard.
_FEWEST_LETTERS = 4
_MOST_REMARKED = 3


@dataclass(frozen=True)
class Judgement:
    """What the base model wrote of a clip.

    Attributes:
        agreement: share of common letters, 0 to 1; None where the text is too short to judge.
    """

    id: str
    text: str
    hypothesis: str
    agreement: float | None

    @property
    def is_understood(self) -> bool:
        """Whether the clip is kept."""
        return self.agreement is None or self.agreement >= LEAST_AGREEMENT

    def to_record(self) -> dict[str, Any]:
        """The JSON object, with the reason."""
        reason = f"less than {LEAST_AGREEMENT:g} of its letters are in the base model's transcript"
        return asdict(self) | {"reason": reason}


SpeechCheck = Callable[
    [Sequence[Utterance], Sequence[tuple[str, ...]], Progress], Sequence[Judgement]
]
"""Judges clips by what is in them besides some terms."""


def speech_check(wanted: bool | None, model: str, progress: Progress) -> SpeechCheck | None:
    """The check with a base model; None without one.

    Args:
        wanted: whether to check; None checks where the model is on this machine.

    Raises: as of `open_model`, where a check is wanted.
    """
    if wanted is None:
        wanted = cached_model(model) is not None
        if not wanted:
            progress.say(
                f"clips are not checked: the model {model} is not on this machine; it comes with: "
                f"moonshine-tune models fetch {quoted(model)}"
            )
    if not wanted:
        return None
    return check_with(open_model(model, dtype="float32", progress=progress))


def check_with(opened: OpenedModel) -> SpeechCheck:
    """A check with a base model; clips in other languages than its own are not judged."""

    def check(
        utterances: Sequence[Utterance], terms: Sequence[tuple[str, ...]], progress: Progress
    ) -> Sequence[Judgement]:
        terms_of = dict(zip((item.id for item in utterances), terms, strict=True))
        own = [item for item in utterances if (item.language or "en") == opened.language]
        if len(own) < len(utterances):
            count = len(utterances) - len(own)
            progress.say(f"{count} clips are not checked: the model speaks {opened.language}")
        if not own:
            return []
        dataset = build_dataset(
            own, opened.model, name="check", max_clip_s=float("inf"), needs_text=False
        )
        name = "checking with the base model"
        texts = base_transcripts(dataset, opened, progress, name)
        return [
            Judgement(
                item.id,
                item.text or "",
                hypothesis,
                agreement_of(item.text or "", hypothesis, terms_of[item.id]),
            )
            for item, hypothesis in zip(dataset.utterances, texts, strict=True)
        ]

    return check


def agreement_of(text: str, hypothesis: str, terms: Sequence[str] = ()) -> float | None:
    """Share of the letters of a text that are in a hypothesis, in order; terms do not count.

    With and without numbers as digits, the better of both. Letters that the hypothesis has beyond
    those count against it, unless there is a term: what was written instead of it is not known.

    Returns:
        0 to 1, or None where the text has too few letters.
    """
    carrier = text
    for term in terms:
        carrier = re.sub(re.escape(term), " ", carrier, flags=re.IGNORECASE)
    best: float | None = None
    for normalizer in (NORMALIZERS["english-1"], NORMALIZERS["basic-1"]):
        letters = normalizer(carrier).replace(" ", "")
        written = normalizer(hypothesis).replace(" ", "")
        if len(letters) < _FEWEST_LETTERS:
            continue
        matcher = SequenceMatcher(None, letters, written, autojunk=False)
        common = sum(block.size for block in matcher.get_matching_blocks())
        share = common / len(letters) if terms else 2 * common / (len(letters) + len(written))
        best = max(best or 0.0, share)
    return None if best is None else round(best, 4)


def left_out_remark(utterances: Sequence[Utterance], left_out: Mapping[str, Judgement]) -> str:
    """How many clips are left out and why, and the voices that have most of them."""
    voices = Counter(item.speaker for item in utterances if item.id in left_out)
    total = Counter(item.speaker for item in utterances)
    worst = ", ".join(
        f"{voice} {count} of {total[voice]}" for voice, count in voices.most_common(_MOST_REMARKED)
    )
    more = ", …" if len(voices) > _MOST_REMARKED else ""
    example = min(left_out.values(), key=lambda item: item.agreement or 0.0)
    return (
        f"{len(left_out)} of {len(utterances)} clips are left out: the base model does not "
        f"understand them ({worst}{more}), such as {example.text!r}, of which it writes "
        f"{example.hypothesis!r}; all are in left_out.jsonl"
    )
