"""`data keyterms`: propose key terms from transcripts or texts, with the model's own tokenizer."""

from collections.abc import Sequence
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.keyterms import propose_key_terms
from moonshine_tune.data.source_texts import read_texts
from moonshine_tune.data.term_list import KeyTermsResult, check_list, write_list
from moonshine_tune.models.checkpoint import load_tokenizer
from moonshine_tune.registry.resolve import resolve_model


@holds_out(lambda sources, *, out=None, **options: out)
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
    """Propose terms from manifests (`.jsonl`) and plain texts; with `out`, write them to a file.

    Args:
        at_most: maximum number of terms.
        least: minimum number of occurrences of a word.
        force: replace an existing `out`.

    Raises:
        RequestError: nothing to read, no rare word, or an existing `out`.
    """
    check_list(out, at_most, least, force=force)
    texts = [text for source in sources for text in read_texts(source)]
    resolved = resolve_model(model, progress=progress)
    tokenizer = load_tokenizer(resolved.checkpoint_dir)
    terms = propose_key_terms(
        texts, lambda text: len(tokenizer.encode(text)), at_most=at_most, least=least
    )
    if not terms:
        raise RequestError(
            "no word is rare for this model: it has a token for each", where=sources[0]
        )
    write_list(out, terms, force=force)
    return KeyTermsResult(resolved.name, tuple(path.name for path in sources), out, terms)
