"""Whether the base model understands synthetic clips, so that spoilt ones are left out.

A clip is understood if enough of its letters are in what the base model writes. Terms are excepted:
a rare term may be misheard, which is why it is trained, but its carrier sentence may not. Of a
domain that the base does not know, it writes something else on good clips too. So a clip is left
out only if its text also fits the sound of some other clip as well as its own.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import NORMALIZERS
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.data.synthesis.judgment import Judgment, SpeechCheck
from moonshine_tune.inference.base_transcripts import base_transcripts
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.token_losses import mean_token_losses
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.registry.resolve import cached_model, resolve_model

# A text with fewer letters cannot be judged: a letter or a "no" alone is often misheard.
_FEWEST_LETTERS = 4
# Clips that a text is compared on besides its own: noise passes one time in eight.
_COMPARED = 7
_STORED_MB = 400


def speech_check(wanted: bool | None, model: str, progress: Progress) -> SpeechCheck | None:
    """The check with a base model; None without one.

    Args:
        wanted: whether to check; None checks where the model is on this machine.

    Raises: as of `resolve_model`, where a check is wanted.
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
    # Fetched before anything is spoken, and loaded after it.
    resolve_model(model, progress=progress)

    def check(
        utterances: Sequence[Utterance], terms: Sequence[tuple[str, ...]], progress: Progress
    ) -> Sequence[Judgment]:
        opened = open_model(model, dtype="float32", progress=progress)
        return check_with(opened)(utterances, terms, progress)

    return check


def check_with(opened: OpenedModel) -> SpeechCheck:
    """A check with a base model; clips in other languages than its own are not judged."""

    def check(
        utterances: Sequence[Utterance], terms: Sequence[tuple[str, ...]], progress: Progress
    ) -> Sequence[Judgment]:
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
        judgments = [
            Judgment(
                item.id,
                item.text or "",
                hypothesis,
                agreement_of(item.text or "", hypothesis, terms_of[item.id]),
            )
            for item, hypothesis in zip(dataset.utterances, texts, strict=True)
        ]
        doubtful = [index for index, item in enumerate(judgments) if item.is_doubtful]
        fits = _fit_their_text(dataset, doubtful, opened, progress)
        return [replace(item, fits=fits.get(index)) for index, item in enumerate(judgments)]

    return check


def _fit_their_text(
    dataset: SpeechDataset, doubtful: Sequence[int], opened: OpenedModel, progress: Progress
) -> dict[int, bool]:
    """Whether the text of each doubtful clip is likelier on it than on clips of similar length.

    How likely a text is without any sound cancels out. Nothing is decided among too few clips.
    """
    others = [index for index in range(len(dataset)) if index not in set(doubtful)]
    members = [*doubtful, *evenly_chosen(others, max(2 * _COMPARED - len(doubtful), 0))]
    members.sort(key=lambda index: (dataset.seconds[index], index))
    count = len(members)
    if not doubtful or count <= _COMPARED:
        return {}
    part = dataset.part(members)
    source = StateSource(opened.model, part, budget_mb=_STORED_MB)
    source.prepare(range(count), progress, "encoding clips in doubt")
    losses = [
        mean_token_losses(
            opened.model,
            source,
            [part.tokens[(row + shift) % count] for row in range(count)],
            progress,
            f"comparing texts and clips in doubt, {shift} of {_COMPARED}",
        )
        for shift in range(_COMPARED + 1)
    ]
    fits = {}
    for row, index in enumerate(members):
        elsewhere = [
            losses[shift][(row - shift) % count]
            for shift in range(1, _COMPARED + 1)
            if part.tokens[row] != part.tokens[(row - shift) % count]
        ]
        if elsewhere and index in doubtful:
            fits[index] = losses[0][row] < min(elsewhere)
    return fits


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
