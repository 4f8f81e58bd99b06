"""Languages of splits."""

from collections.abc import Iterator

from moonshine_tune.corpus.manifest import without_region
from moonshine_tune.data.checks.base import splits_check
from moonshine_tune.data.checks.checked_manifest import CheckedSplits, Occurrence


@splits_check("warning", rank=32)
def other_language(splits: CheckedSplits) -> Iterator[Occurrence]:
    """[utterance is|utterances are] in another language than all of the first split: a score on
    [it|them] says nothing about what is learned there.

    Name splits of one language, or correct the key language.
    """
    (first, members), *others = splits.utterances.items()
    known = {_primary(item.language) for item in members}
    if not known or "" in known:
        return
    for name, utterances in others:
        for item in utterances:
            if (language := _primary(item.language)) and language not in known:
                yield f"{name}:{item.id}", f"{item.language}; {first}: {', '.join(sorted(known))}"


def _primary(language: str | None) -> str:
    """Two letters of a language's code: of `en-US`, `en_GB` and `eng` the same.

    Empty where its name is written out, which is no code: `German` is `de`.
    """
    code = without_region(language or "")
    return code[:2] if len(code) <= 3 else ""
