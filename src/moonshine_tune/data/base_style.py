"""Texts in the style of the base model, which writes punctuation and case.

Most transcripts have neither. An adapter learns to leave them out, and no WER shows it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.corpus.punctuation import has_capital, has_marks, is_sentence
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.data.checks.text import (
    BASE_STYLE,
    MIN_SENTENCES,
    SentenceStyle,
    character_distance,
    in_capitals,
    sentence_case,
)
from moonshine_tune.data.style_transfer import capitalized_words, usual_final_mark, with_style
from moonshine_tune.inference.base_transcripts import base_transcripts
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.registry.base_model import location_of
from moonshine_tune.registry.open import OpenedModel

# Character errors up to which a transcript shows where the marks of a reference belong.
_MAX_DISTANCE = 0.5
_MAX_CLIP_S = 30.0
# Texts whose style is counted, and clips that the base model transcribes to compare with: seconds.
_COUNTED, _TRANSCRIBED = 2_000, 16


@dataclass(frozen=True)
class StyledTexts:
    """Texts in the base model's style.

    Attributes:
        model: its name.
        texts: id → new text, of every text that changes.
        sentence_form: ids of those with a capital and a final mark only, because the transcript is
            too different to show more.
        kept: why texts stay as they are → their ids.
    """

    model: str
    texts: dict[str, str]
    sentence_form: tuple[str, ...]
    kept: dict[str, tuple[str, ...]]


def restyle(
    utterances: Sequence[Utterance], opened: OpenedModel, progress: Progress
) -> StyledTexts:
    """Transcribe clips with the base model, and write their texts as it writes.

    A text with punctuation and case stays as it is, and so do single words, letters and numbers.

    Raises:
        RequestError: no clip can be transcribed.
    """
    dataset = build_dataset(
        utterances, opened.model, name="style", max_clip_s=_MAX_CLIP_S, needs_text=True
    )
    for remark in dataset.remarks:
        progress.say(remark)
    transcripts = base_transcripts(dataset, opened, progress, "transcribing")
    final, names = usual_final_mark(transcripts), capitalized_words(transcripts)
    written = [item.reference for item in dataset.utterances if has_marks(item.reference)]
    is_cased = 2 * sum(map(has_capital, written)) >= len(written)
    texts: dict[str, str] = {}
    sentence_form: list[str] = []
    kept: dict[str, list[str]] = defaultdict(list)
    for item, transcript in zip(dataset.utterances, transcripts, strict=True):
        reference = item.reference
        normalizer = normalizer_for(None, item.language or opened.language)
        is_alike = _distance(reference, transcript, normalizer) <= _MAX_DISTANCE
        if has_marks(reference) and (is_cased or has_capital(reference)):
            kept["written already"].append(item.id)
        elif not is_sentence(reference, normalizer):
            kept["single words, letters or numbers"].append(item.id)
        elif not is_alike and not final:
            kept["unlike the transcript"].append(item.id)
        else:
            is_capitals = in_capitals(reference)
            text = with_style(
                sentence_case(reference, item.language) if is_capitals else reference,
                transcript,
                final=None if is_alike else final,
                names=names,
                lowers=is_capitals,
            )
            if text == reference:
                kept["equal"].append(item.id)
                continue
            texts[item.id] = text
            if not is_alike:
                sentence_form.append(item.id)
    transcribed = {item.id for item in dataset.utterances}
    kept["not transcribed"] = [item.id for item in utterances if item.id not in transcribed]
    return StyledTexts(
        model=str(opened.base["name"]),
        texts=texts,
        sentence_form=tuple(sentence_form),
        kept={reason: tuple(ids) for reason, ids in kept.items() if ids},
    )


def _distance(reference: str, transcript: str, normalizer: Normalizer) -> float:
    return character_distance(normalizer(reference), normalizer(transcript))


def unlearned_style(
    dataset: SpeechDataset, opened: OpenedModel, manifest: Path, progress: Progress
) -> tuple[str, ...]:
    """A remark if the base model writes punctuation or case that the training texts lack.

    The base model transcribes some clips, unless the texts have both.
    """
    counted = evenly_chosen(range(len(dataset)), _COUNTED)
    sentences = [index for index in counted if _is_sentence(dataset.utterances[index], opened)]
    if len(sentences) < MIN_SENTENCES:
        return ()
    own = SentenceStyle.of([dataset.utterances[index].reference for index in sentences])
    if not own.lacks(BASE_STYLE):
        return ()
    chosen = evenly_chosen(sentences, _TRANSCRIBED)
    transcripts = base_transcripts(
        dataset.part(chosen), opened, progress, "punctuation and case of the base"
    )
    model = SentenceStyle.of([text for text in transcripts if text.strip()])
    lacking = own.lacks(model)
    if not lacking:
        return ()
    shares = {
        "punctuation": (own.punctuation, model.punctuation),
        "capital letters": (1 - own.lower, 1 - model.lower),
    }
    texts = " and ".join(f"{shares[name][0]:.0%} have {name}" for name in lacking)
    base = " and ".join(f"{shares[name][1]:.0%}" for name in lacking)
    styled = manifest.with_name(f"{manifest.stem}-styled.jsonl")
    return (
        f"train: {texts}, of the base model's transcripts {base}: the adapter unlearns "
        f"{'both' if len(lacking) > 1 else 'it'}, which no WER shows; to keep "
        f"{'them' if len(lacking) > 1 else 'it'}: moonshine-tune data fix {quoted(manifest)} "
        f"--style base --model {quoted(location_of(opened.resolved))} --out {quoted(styled)} "
        "--apply",
    )


def _is_sentence(utterance: Utterance, opened: OpenedModel) -> bool:
    normalizer = normalizer_for(None, utterance.language or opened.language)
    return is_sentence(utterance.text or "", normalizer)
