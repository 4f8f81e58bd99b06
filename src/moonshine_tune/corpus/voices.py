"""Whose voices a score is for: a test of voices that were in training says nothing about others."""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.speaker_labels import joined_to_recordings, local_labels
from moonshine_tune.corpus.speaker_names import similar_names

# Ways to split that keep voices apart, or about which nothing is known.
BY_SPEAKER = ("", "speaker", "field")
ONE_VOICE, KNOWN_VOICES = "one voice", "known voices"
SOME_KNOWN, UNNAMED_VOICES = "some known voices", "unnamed voices"
_SHOWN = 3
# With this many words, one is two points of WER: more than most changes of a recipe.
_FEW_WORDS = 50


@dataclass(frozen=True)
class VoiceScope:
    """Whose voices a score is for.

    Attributes:
        kind: `one voice` (all clips of training and of the score are of one speaker), `known
            voices` (training has all voices of the score), `some known voices`, or `unnamed
            voices` (nobody is named, and the corpus was not split by speaker).
        names: of the speakers that training has too; empty in what is published.
    """

    kind: str
    names: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """`for this voice (anna): says nothing about other voices`; empty for another kind."""
        shown = ", ".join(self.names[:_SHOWN]) + (", …" if len(self.names) > _SHOWN else "")
        named = f" ({shown})" if shown else ""
        return {
            ONE_VOICE: f"for this voice{named}: says nothing about other voices",
            KNOWN_VOICES: f"for these voices{named}, which training has: says nothing about other "
            "voices",
            SOME_KNOWN: f"for voices of which training has some{named}: says little about other "
            "voices",
            UNNAMED_VOICES: "for these voices, which are not named and may be one: says nothing "
            "about other voices",
        }.get(self.kind, "")


def voice_scope(
    train: Sequence[Utterance], scored: Sequence[Utterance], *, by: str = ""
) -> VoiceScope | None:
    """Whose voices a score of `scored` is for; None where training has none of them.

    Where nobody is named, nothing is known, unless a split tells that it was not by speaker.

    Args:
        by: how the two were split, as `Splits.by` has it; empty where that is not known.
    """
    labels = [item for item in local_labels([*train, *scored]) if item.is_certain]
    train, scored = joined_to_recordings(train, labels), joined_to_recordings(scored, labels)
    similar = {
        name: first
        for first, *others in similar_names({u.speaker for u in (*train, *scored) if u.speaker})
        for name in others
    }
    trained, tested = (
        {similar.get(item.speaker, item.speaker) if item.speaker else None for item in items}
        for items in (train, scored)
    )
    shared = trained & tested - {None}
    names = tuple(sorted(name for name in shared if name))
    if not trained or not tested:
        return None
    if tested == shared:
        return VoiceScope(ONE_VOICE if len(trained) == 1 else KNOWN_VOICES, names)
    if by not in BY_SPEAKER and (None in tested or not shared):
        return VoiceScope(UNNAMED_VOICES, names)
    return VoiceScope(SOME_KNOWN, names) if shared else None


def is_tiny(scored: Sequence[Utterance]) -> bool:
    """Whether a set is too small for its WER to tell two adapters apart."""
    return sum(len((item.text or "").split()) for item in scored) < _FEW_WORDS


def tiny_set_remark(name: str, scored: Sequence[Utterance], words: int | None = None) -> str | None:
    """How little a set of a few clips says; None for a larger one.

    Args:
        words: of the references after the normalizer; by default counted as they are written.
    """
    if words is None:
        words = sum(len((item.text or "").split()) for item in scored)
    if not words or words >= _FEW_WORDS:
        return None
    # One-sided 95 % bound of a share of which nothing was seen, as if words were independent.
    bound = 100 * (1 - 0.05 ** (1 / words))
    clips, words_of = "clip" if len(scored) == 1 else "clips", "word" if words == 1 else "words"
    return (
        f"{name} has {len(scored)} {clips} with {words} {words_of}: one wrong word is "
        f"{100 / words:.1f} points of WER, and without a single error the true WER may still be "
        f"{bound:.0f} %"
    )
