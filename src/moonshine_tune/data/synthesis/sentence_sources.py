"""The sentences to synthesize: of a file, templates or a grammar, and terms in carriers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.keyterms import read_spoken_terms
from moonshine_tune.corpus.spoken_lines import SpokenLine, read_spoken_lines
from moonshine_tune.data.synthesis.atc_grammar import phraseology_sentences
from moonshine_tune.data.synthesis.carriers import carrier_sentences, carry_terms, read_carriers
from moonshine_tune.data.synthesis.general_sentences import general_sentences
from moonshine_tune.data.synthesis.prompts import Prompt, Pronunciations
from moonshine_tune.data.synthesis.templates import Templates

GRAMMARS = ("atc", "general")
# Sentences of templates where no count is given.
_MOST_BY_DEFAULT = 1000
_MOST_SHOWN = 1_000_000_000


@dataclass(frozen=True)
class SentenceSources:
    """Where sentences come from: one of the first three, terms, or both.

    Attributes:
        file: text with one sentence per line, and its spoken form after a tab; or a table.
        templates: file of templates.
        lists: lists that the templates may use, by name, beside those of their file.
        grammar: "atc" or "general".
        terms: file of terms, and their spoken forms after tabs. Each is put into carrier sentences,
            and spoken so in all sentences.
        carriers: file of carrier sentences; None for those of the package.
        per_term: number of carrier sentences of each term.
        count: number of sentences, terms aside; None for all.
        skip: number of sentences to skip first.
    """

    file: Path | None = None
    templates: Path | None = None
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    grammar: str | None = None
    terms: Path | None = None
    carriers: Path | None = None
    per_term: int = 5
    count: int | None = None
    skip: int = 0
    seed: int = 0


def choose_prompts(sources: SentenceSources, progress: Progress) -> tuple[Prompt, ...]:
    """Distinct sentences with their spoken forms, and those of the terms at the end.

    Two calls with one seed share no sentence if the second skips as many as the first took.

    Raises:
        RequestError: no source or two, an unknown grammar, a file that cannot be read, or too few
            sentences.
        ProblemsError: lines of a file that cannot be used; all are listed.
    """
    named = (sources.file, sources.templates, sources.grammar)
    count = sum(source is not None for source in named)
    if count > 1 or (count == 0 and sources.terms is None):
        raise RequestError(
            "sentences come either from a file or from a grammar",
            hint="give one of --sentences FILE, --templates FILE, and --grammar with one of: "
            f"{', '.join(GRAMMARS)}; or --terms FILE",
        )
    terms: tuple[SpokenLine, ...] = ()
    if sources.terms is not None:
        terms = read_spoken_terms(sources.terms)
    pronunciations = Pronunciations(terms)
    prompts = [pronunciations.apply(prompt) for prompt in _sentences(sources, progress)]
    if terms:
        carriers = read_carriers(sources.carriers) if sources.carriers else carrier_sentences()
        prompts += carry_terms(terms, carriers, per_term=sources.per_term, seed=sources.seed)
    return tuple(dict.fromkeys(prompts))


def has_templates(path: Path) -> bool:
    """Whether a text file is one of templates: it has a choice or a list in braces."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        # The reader of sentences names the fault.
        return False
    return "{" in text and "}" in text


def _sentences(sources: SentenceSources, progress: Progress) -> Sequence[Prompt]:
    """The sentences without those of the terms."""
    skip, count = sources.skip, sources.count
    if skip < 0 or (count is not None and count < 1):
        raise RequestError(f"cannot take {count} sentences after skipping {skip}")
    where = sources.file or sources.templates
    if sources.file is not None:
        prompts = _read_sentences(sources.file, progress)
    elif sources.templates is not None:
        prompts = _from_templates(sources.templates, sources, progress)
    elif sources.grammar is None:
        return ()
    elif sources.grammar == "general":
        prompts = tuple(map(Prompt, general_sentences()))
    elif sources.grammar != "atc":
        raise RequestError(
            f"no grammar is called {sources.grammar!r}", hint=f"one of: {', '.join(GRAMMARS)}"
        )
    elif count is None:
        raise RequestError("the atc grammar is unlimited", hint="give a number with --count 100")
    else:
        sentences = phraseology_sentences(skip + count, seed=sources.seed)
        prompts = tuple(map(Prompt, sentences))
    taken = prompts[skip:] if count is None else prompts[skip : skip + count]
    if not taken or (count is not None and len(taken) < count):
        wanted = "some" if count is None else f"{count}"
        raise RequestError(
            f"cannot take {wanted} sentences after skipping {skip}: there are {len(prompts)}",
            where=where,
            hint="lower --count or --skip",
        )
    return taken


def _from_templates(path: Path, sources: SentenceSources, progress: Progress) -> tuple[Prompt, ...]:
    """As many sentences as are asked for after those that are skipped, as far as there are."""
    templates = Templates(path, sources.lists)
    size = templates.size
    if sources.count is not None:
        return templates.draw(sources.skip + sources.count, sources.seed)
    if size > _MOST_BY_DEFAULT:
        shown = f"{size:,}" if size < _MOST_SHOWN else f"more than {_MOST_SHOWN:,}"
        progress.say(
            f"the templates have up to {shown} sentences: {_MOST_BY_DEFAULT:,} are drawn; another "
            "number with --count"
        )
    return templates.draw(sources.skip + _MOST_BY_DEFAULT, sources.seed)


def _read_sentences(path: Path, progress: Progress) -> tuple[Prompt, ...]:
    lines = read_spoken_lines(path, "sentences", comments=False)
    if not lines:
        raise RequestError(
            "the file has no sentences",
            where=path,
            hint="give a text file, one sentence per line",
        )
    if has_templates(path):
        progress.say(f"{path.name} has braces, which are spoken: as choices with --templates")
    prompts = tuple(dict.fromkeys(Prompt(item.text, item.spoken) for item in lines))
    if len(prompts) < len(lines):
        progress.say(f"kept {len(prompts)} of {len(lines)} sentences: the others are repeated")
    return prompts
