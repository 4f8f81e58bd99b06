"""A list of key terms proposed from transcripts or a text, with the model's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.keyterms import ProposedTerm, propose_key_terms
from moonshine_tune.corpus.manifest import read_manifest

_MANIFEST_ENDINGS = (".jsonl", ".json")


@dataclass(frozen=True)
class KeyTermsResult:
    """The proposed terms, the file that they were written to, the words that were looked at."""

    terms: tuple[ProposedTerm, ...]
    out: Path | None
    sources: tuple[str, ...]
    model: str

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `data keyterms`."""
        return {
            "model": self.model,
            "sources": list(self.sources),
            "out": None if self.out is None else str(self.out),
            "terms": [
                {"term": item.term, "count": item.count, "pieces": item.pieces}
                for item in self.terms
            ],
        }


def propose(
    sources: Sequence[Path],
    *,
    model: str,
    progress: Progress,
    out: Path | None = None,
    at_most: int = 100,
    least: int = 1,
    force: bool = False,
) -> KeyTermsResult:
    """Propose terms from manifests (`.jsonl`) and plain texts; with `out`, write them there.

    Raises:
        RequestError: nothing to read, or `out` exists.
    """
    from moonshine_tune.models.checkpoint import load_tokenizer
    from moonshine_tune.registry.resolve import resolve_model

    if out is not None and out.exists() and not force:
        raise RequestError("the file exists already", where=out, hint="replace it with --force")
    if at_most < 1 or least < 1:
        raise RequestError("the number of terms and of times must be at least 1")
    texts = [text for source in sources for text in _texts(source)]
    resolved = resolve_model(model, progress=progress)
    tokenizer = load_tokenizer(resolved.checkpoint_dir)
    terms = propose_key_terms(
        texts, lambda text: len(tokenizer.encode(text)), at_most=at_most, least=least
    )
    if not terms:
        raise RequestError(
            "no word here is rare to this model: it has a piece of its own for each",
            where=sources[0],
        )
    if out is not None:
        head = "# Key terms, one a line: take out what needs no help.\n"
        write_text_atomic(out, head + "".join(f"{item.term}\n" for item in terms))
    return KeyTermsResult(terms, out, tuple(path.name for path in sources), resolved.name)


def _texts(path: Path) -> list[str]:
    if path.suffix.lower() in _MANIFEST_ENDINGS:
        # Only the texts are read: the recordings may lie elsewhere.
        manifest = read_manifest(path, require_text=False, check_files=False)
        found = [item.text for item in manifest.utterances if item.text]
    else:
        try:
            found = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"the text cannot be read: {error}", where=path) from error
    if not any(text.strip() for text in found):
        raise RequestError("no texts in it", where=path)
    return found
