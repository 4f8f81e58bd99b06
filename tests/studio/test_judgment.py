"""When a recording is taken for another sentence, before and after it is known what is usual."""

from types import SimpleNamespace
from typing import Any

import pytest

from moonshine_tune.data.checks.checked_manifest import ModelTranscript
from moonshine_tune.data.checks.rules.model_transcripts import FEWEST
from moonshine_tune.studio.judgment import other_text

_OPENED: Any = SimpleNamespace(
    language="en", model=SimpleNamespace(tokenizer=SimpleNamespace(encode=list))
)


def _take(text: str, loss: float, *, confidence: float = 0.8, distance: float = 0.9) -> Any:
    return ModelTranscript("take", "turn left at the bridge", text, confidence, loss, distance)


@pytest.mark.parametrize(
    ("take", "kind"),
    [
        (_take("we had soup for dinner", 6.0), "doubtful_text"),
        (_take("turn", 3.0, distance=0.8), "words_not_said"),
        (_take("turn left at the bridge and then go on until the church", 3.0), "words_missing"),
        # Jargon and accents are hard: the text is another one, and not unlikely.
        (_take("turd laugh at the britch", 3.5), None),
        # A model that is unsure contradicts nothing.
        (_take("we had soup for dinner", 6.0, confidence=0.3), None),
        (_take("turn left at the bridge", 6.0, distance=0.0), None),
    ],
)
def test_the_first_takes_are_judged_by_fixed_bounds(take: Any, kind: str | None) -> None:
    finding = other_text(take, (), _OPENED)
    assert (finding.name if finding else None) == kind
    assert finding is None or (finding.can_keep and take.text[:20] in finding.message)


def test_later_takes_are_judged_by_what_is_usual() -> None:
    def finding(usual: float, loss: float) -> object:
        earlier = [
            ModelTranscript(str(n), f"sentence {n}", f"sentence {n}", 0.8, usual + n / 100, 0.1)
            for n in range(FEWEST)
        ]
        return other_text(_take("we had soup for dinner", loss), earlier, _OPENED)

    # Where everything is hard, none stands out; where all is easy, less is needed.
    assert finding(4.5, 5.0) is None and finding(4.5, 8.0) is not None
    assert finding(0.5, 3.0) is not None
