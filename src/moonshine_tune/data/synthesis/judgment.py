"""What the base model made of a synthetic clip. It loads no model: `intelligibility.py` does."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance

# Below this share of common letters a person would not take the two for the same sentence.
LEAST_AGREEMENT = 0.5
_MOST_REMARKED = 3


@dataclass(frozen=True)
class Judgment:
    """What the base model wrote of a clip.

    Attributes:
        agreement: share of common letters, 0 to 1; None where the text is too short to judge.
        fits: whether the text is likelier on its own clip than on others; None where that was not
            asked, or there are too few others.
    """

    id: str
    text: str
    hypothesis: str
    agreement: float | None
    fits: bool | None = None

    @property
    def is_understood(self) -> bool:
        """Whether the clip is kept."""
        return not self.is_doubtful or self.fits is not False

    @property
    def is_doubtful(self) -> bool:
        """Whether the base model writes something else."""
        return self.agreement is not None and self.agreement < LEAST_AGREEMENT

    def to_record(self) -> dict[str, Any]:
        """The JSON object, with the reason."""
        return asdict(self) | {
            "reason": f"less than {LEAST_AGREEMENT:g} of its letters are in the base model's "
            "transcript, and its text fits another clip as well"
        }


SpeechCheck = Callable[
    [Sequence[Utterance], Sequence[tuple[str, ...]], Progress], Sequence[Judgment]
]
"""Judges clips by what is in them besides some terms."""


def left_out_remark(utterances: Sequence[Utterance], left_out: Mapping[str, Judgment]) -> str:
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
