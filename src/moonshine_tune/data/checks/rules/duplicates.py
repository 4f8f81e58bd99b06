"""The same audio more than once in one manifest, with the same text or with others."""

from collections.abc import Iterator

from moonshine_tune.corpus.grouping import plain_text
from moonshine_tune.data.checks.base import Drop, manifest_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Occurrence, by_digest
from moonshine_tune.data.checks.text import shortened


@manifest_check("error", rank=110, fix=Drop())
def conflicting_texts(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[clip has|clips have] the same audio and different texts: at least one text is wrong.

    Listen, and keep the right one.
    """
    return _copies(manifest, with_one_text=False)


@manifest_check("warning", rank=80, fix=Drop(keep_first=True))
def duplicate_audio(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[clip has|clips have] the same audio as others.

    Keep one, unless you mean to give it more weight.
    """
    return _copies(manifest, with_one_text=True)


def _copies(manifest: CheckedManifest, *, with_one_text: bool) -> Iterator[Occurrence]:
    for group in by_digest(manifest.clips).values():
        texts = {plain_text(clip.utterance) for clip in group}
        if len(group) < 2 or (len(texts) == 1) != with_one_text:
            continue
        for clip in group:
            others = ", ".join(copy.utterance.id for copy in group if copy is not clip)
            yield clip.utterance.id, f"the same audio as {shortened(others)}"
