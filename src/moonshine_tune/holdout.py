"""A held-out set that is scored again and again during a run, decoded as deployed."""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.decode import DecodeLimits, batches_by_length, greedy_tokens
from moonshine_tune.encoder_cache import StateSource
from moonshine_tune.families.interface import SpeechModel
from moonshine_tune.manifest import Utterance
from moonshine_tune.progress import Progress
from moonshine_tune.score import Score, ScoredUtterance, score_utterance, summarize
from moonshine_tune.text import Normalizer

_BATCH_S = 120.0
# From stored states only the decoder runs, and its cost a token hardly grows with the batch.
_STORED_BATCH_S = 400.0


@dataclass(frozen=True)
class HoldoutScore:
    """A score with the utterances behind it."""

    score: Score
    scored: tuple[ScoredUtterance, ...]


def transcribe_source(
    model: SpeechModel,
    source: StateSource,
    limits: DecodeLimits,
    progress: Progress,
    name: str,
) -> list[str]:
    """Greedy transcripts of every utterance of a source, in its order."""
    texts = [""] * len(source)
    with progress.stage(name, len(source)) as stage:
        for group in batches_by_length(
            source.seconds, _STORED_BATCH_S if source.stores else _BATCH_S
        ):
            states = source.batch(group)
            tokens = greedy_tokens(model, states, [limits.tokens(source.seconds[i]) for i in group])
            for index, ids in zip(group, tokens, strict=True):
                texts[index] = model.tokenizer.decode(ids)
            stage.advance(len(group))
    return texts


class Holdout:
    """Utterances with references, and the encoder states to decode them from."""

    def __init__(
        self,
        name: str,
        utterances: Sequence[Utterance],
        source: StateSource,
        normalizer: Normalizer,
        limits: DecodeLimits,
    ) -> None:
        self.name = name
        self.utterances = tuple(utterances)
        self._source = source
        self._normalizer = normalizer
        self._limits = limits

    def score(self, model: SpeechModel, progress: Progress) -> HoldoutScore:
        """Decode everything and score it.

        Utterances without a text are scored against the first answer that was ever heard for them:
        the base model's, when the base is scored first.
        """
        heard = transcribe_source(
            model, self._source, self._limits, progress, f"scoring {self.name}"
        )
        self.utterances = tuple(
            utterance if utterance.text is not None else utterance.with_text(text)
            for utterance, text in zip(self.utterances, heard, strict=True)
        )
        scored = tuple(
            score_utterance(
                utterance.id,
                utterance.reference,
                text,
                self._normalizer,
                speaker=utterance.speaker,
            )
            for utterance, text in zip(self.utterances, heard, strict=True)
        )
        return HoldoutScore(summarize(scored), scored)
