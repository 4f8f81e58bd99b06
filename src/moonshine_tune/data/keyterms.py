"""`data keyterms`: propose key terms, by the model's own tokenizer or by what was corrected."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import holds_out, write_text_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.keyterms import ProposedTerm, propose_key_terms
from moonshine_tune.corpus.manifest import HYPOTHESIS, read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.alignment import missed_words
from moonshine_tune.models.checkpoint import load_tokenizer
from moonshine_tune.registry.resolve import resolve_model

_MANIFEST_ENDINGS = (".jsonl", ".json")
_HEADING = "# Key terms, one per line: remove terms that need no help.\n"


@dataclass(frozen=True)
class KeyTermsResult:
    """The proposed terms, the file that they were written to, and the sources that were read.

    Attributes:
        model: whose tokenizer was asked; None where corrections decide.
    """

    model: str | None
    sources: tuple[str, ...]
    out: Path | None
    terms: tuple[ProposedTerm, ...]

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        return asdict(self) | {"out": None if self.out is None else str(self.out)}


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
    _check(out, at_most, least, force=force)
    texts = [text for source in sources for text in _texts(source)]
    resolved = resolve_model(model, progress=progress)
    tokenizer = load_tokenizer(resolved.checkpoint_dir)
    terms = propose_key_terms(
        texts, lambda text: len(tokenizer.encode(text)), at_most=at_most, least=least
    )
    if not terms:
        raise RequestError(
            "no word is rare for this model: it has a token for each", where=sources[0]
        )
    _write(out, terms, force=force)
    return KeyTermsResult(resolved.name, tuple(path.name for path in sources), out, terms)


@holds_out(lambda manifest, *, out=None, **options: out)
def propose_from_corrections(
    manifest: Path,
    *,
    out: Path | None = None,
    at_most: int = 100,
    least: int = 1,
    force: bool = False,
) -> KeyTermsResult:
    """Propose the words that the recognizer gets wrong, by the corrections of a person.

    Args:
        manifest: of `data import --corrections`: its lines have a text and a hypothesis.
        at_most: maximum number of terms.
        least: minimum number of times that a word was corrected.
        force: replace an existing `out`.

    Raises:
        RequestError: no hypotheses in the manifest, or an existing `out`.
        NegativeAnswerError: no word was corrected.
    """
    _check(out, at_most, least, force=force)
    utterances = read_manifest(manifest, require_text=False, check_files=False).utterances
    pairs = [
        (item.text, hypothesis)
        for item in utterances
        if item.text is not None and isinstance(hypothesis := item.extra.get(HYPOTHESIS), str)
    ]
    if not pairs:
        raise RequestError(
            f'no line has a "{HYPOTHESIS}"',
            where=manifest,
            hint="make such a manifest with: moonshine-tune data import FOLDER --corrections LOG "
            "--out corrected.jsonl",
        )
    missed = missed_words(pairs, normalizer_for(None, utterances[0].language or "en"))
    terms = tuple(
        ProposedTerm(item.term, item.spoken, missed=item.missed)
        for item in missed
        if item.missed >= least
    )[:at_most]
    if not terms:
        raise NegativeAnswerError(
            f"no word was corrected {least} times or more, and most of the time", where=manifest
        )
    _write(out, terms, force=force)
    return KeyTermsResult(None, (manifest.name,), out, terms)


def _check(out: Path | None, at_most: int, least: int, *, force: bool) -> None:
    if out is not None and out.exists() and not force:
        raise RequestError("the file exists already", where=out, hint="replace it with --force")
    if at_most < 1 or least < 1:
        raise RequestError("the numbers of terms and of occurrences must be at least 1")


def _write(out: Path | None, terms: Sequence[ProposedTerm], *, force: bool) -> None:
    if out is not None:
        text = _HEADING + "".join(f"{item.term}\n" for item in terms)
        write_text_atomic(out, text, replace=force)


def _texts(path: Path) -> list[str]:
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
