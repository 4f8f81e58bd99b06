"""Sentences without what base models write: punctuation and capital letters."""

from collections.abc import Iterator

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.punctuation import has_marks, is_sentence
from moonshine_tune.data.checks.base import manifest_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Occurrence
from moonshine_tune.data.checks.text import (
    BASE_STYLE,
    MIN_SENTENCES,
    SentenceStyle,
    is_lower,
    shortened,
)


@manifest_check("note", rank=20)
def unlike_base_style(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] no punctuation or no capital letter, which base models
    write: an adapter learns to leave them out, and no WER shows it.

    Do nothing if you want such texts; else write them as the base model does with: moonshine-tune
    data fix MANIFEST --style base --out styled.jsonl --apply
    """
    sentences = [
        item
        for item in manifest.utterances
        if item.text and is_sentence(item.text, normalizer_for(None, item.language or "en"))
    ]
    if len(sentences) < MIN_SENTENCES:
        return
    transcripts = [item.text for item in manifest.model.transcripts] if manifest.model else []
    # Without a model: what base models write.
    model = SentenceStyle.of(transcripts) if transcripts else BASE_STYLE
    lacking = SentenceStyle.of([item.reference for item in sentences]).lacks(model)
    for item in sentences:
        text = item.reference
        absent = {"punctuation": not has_marks(text), "capital letters": is_lower(text)}
        missing = " and ".join(f"no {name}" for name in lacking if absent[name])
        if missing:
            yield item.id, f"{missing}: {shortened(text)}"
