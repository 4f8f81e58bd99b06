"""`data keyterms --from-corrections`: the words that a person had to correct; loads no model."""

from pathlib import Path

from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.corpus.keyterms import ProposedTerm
from moonshine_tune.corpus.manifest import HYPOTHESIS, read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.term_list import KeyTermsResult, check_list, write_list
from moonshine_tune.metrics.alignment import missed_words


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
    check_list(out, at_most, least, force=force)
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
    write_list(out, terms, force=force)
    return KeyTermsResult(None, (manifest.name,), out, terms)
