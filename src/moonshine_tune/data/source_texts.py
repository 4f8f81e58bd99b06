"""Texts of a user: the transcripts of a manifest, or the lines of a plain text."""

from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import read_manifest

_MANIFEST_ENDINGS = (".jsonl", ".json")


def read_texts(path: Path) -> list[str]:
    """The texts of a manifest (`.jsonl`), or the lines of any other file.

    Raises:
        RequestError: it cannot be read, or has no text.
    """
    if path.suffix.lower() in _MANIFEST_ENDINGS:
        # Only the texts are read: the recordings may be elsewhere.
        manifest = read_manifest(path, require_text=False, check_files=False)
        texts = [item.text for item in manifest.utterances if item.text]
    else:
        try:
            texts = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"the text cannot be read: {error}", where=path) from error
    if not any(text.strip() for text in texts):
        raise RequestError("no texts in it", where=path)
    return texts
