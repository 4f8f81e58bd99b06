"""`data next`: which sentences to record next. Loads no model."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import holds_out, read_lines, write_text_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.keyterms import read_key_terms
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.aliases.takes import carriers
from moonshine_tune.data.aliases.written import plain_words
from moonshine_tune.data.next_sentences.choose import (
    ChosenSentence,
    Sentence,
    choose_sentences,
)
from moonshine_tune.data.next_sentences.features import (
    TERM,
    Feature,
    Wanted,
    WordPhonemes,
    features_of,
    term_words,
)
from moonshine_tune.data.source_texts import read_texts
from moonshine_tune.data.synthesis.general_sentences import general_sentences
from moonshine_tune.metrics.alignment import align
from moonshine_tune.runs.summary import read_scored

_FEWEST_WORDS = 3
_SURE = 0.8
# A common word that is dropped now and then needs no sentence of its own.
_LEAST_MISSED = 0.2
_HYPOTHESES = "hypotheses.jsonl"


@dataclass(frozen=True)
class NextRequest:
    """What to choose from, and what is wanted.

    Attributes:
        texts: manifests or plain texts with candidates; none for the built-in English sentences.
        terms: file of terms, each of which needs takes.
        recorded: manifests of what is recorded already.
        evaluations: folders of `evaluate`: the words that it got wrong are wanted.
        transcripts: manifests of `transcribe --words`: the words that it was unsure of are wanted.
    """

    texts: tuple[Path, ...] = ()
    out: Path | None = None
    count: int = 20
    terms: Path | None = None
    recorded: tuple[Path, ...] = ()
    evaluations: tuple[Path, ...] = ()
    transcripts: tuple[Path, ...] = ()
    language: str = "en"
    max_words: int = 20
    force: bool = False


@dataclass(frozen=True)
class NextResult:
    """The sentences to record, in their order.

    Attributes:
        candidates: number of sentences that were compared.
        remarks: terms without a sentence, and how sounds were judged.
    """

    out: Path | None
    sentences: tuple[ChosenSentence, ...]
    candidates: int
    remarks: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        return asdict(self) | {"out": None if self.out is None else str(self.out)}


@holds_out(lambda request, progress: request.out)
def next_sentences(request: NextRequest, progress: Progress) -> NextResult:
    """Choose the sentences to record next; the same request gives the same ones.

    Raises:
        RequestError: nothing to read, or an existing `out`.
        NegativeAnswerError: every sentence is recorded already, or too long.
    """
    _check(request)
    recorded = [plain_words(text) for path in request.recorded for text in read_texts(path)]
    wanted = _wanted(request)
    candidates, remarks = _candidates(request, wanted, set(recorded))
    words = [plain_words(text) for text in candidates]
    all_words = {word for sentence in (*words, *recorded) for word in sentence}
    sounds = WordPhonemes(all_words, request.language)
    if sounds.remark:
        remarks.append(sounds.remark)
    terms = term_words(wanted)
    sentences = []
    with progress.stage("comparing sentences", len(candidates)) as stage:
        for text, own in zip(candidates, words, strict=True):
            sentences.append(Sentence(text, len(own), features_of(own, wanted, sounds, terms)))
            stage.advance()
    have: Counter[Feature] = Counter()
    for own in recorded:
        have.update(features_of(own, wanted, sounds, terms))
    chosen = choose_sentences(sentences, have, wanted, request.count)
    if len(chosen) < request.count:
        remarks.append(
            f"{len(chosen)} sentences teach something; name a longer text for {request.count}"
        )
    missing = [
        term for term in wanted.terms if not any(s.features.get((TERM, term)) for s in sentences)
    ]
    if missing:
        remarks.append(f"no sentence has: {', '.join(missing)}; write some with them")
    if request.out is not None:
        text = "".join(f"{item.text}\n" for item in chosen)
        write_text_atomic(request.out, text, replace=request.force)
    return NextResult(request.out, tuple(chosen), len(candidates), tuple(remarks))


def _check(request: NextRequest) -> None:
    if request.count < 1 or request.max_words < _FEWEST_WORDS:
        raise RequestError(
            f"--count is at least 1, and --max-words at least {_FEWEST_WORDS}",
            hint="for example: --count 20 --max-words 20",
        )
    if request.out is not None and request.out.exists() and not request.force:
        raise RequestError(
            "the file exists already", where=request.out, hint="replace it with --force"
        )
    if not request.texts and not request.language.lower().startswith("en"):
        raise RequestError(
            f"no sentences in {request.language!r} are built in",
            hint=f"name a text of yours: moonshine-tune data next text.txt "
            f"--language {quoted(request.language)}",
        )


def _candidates(
    request: NextRequest, wanted: Wanted, recorded: set[tuple[str, ...]]
) -> tuple[list[str], list[str]]:
    """The sentences to compare, each once, and remarks on those that are not."""
    if request.texts:
        texts: Iterable[str] = (text for path in request.texts for text in read_texts(path))
    else:
        texts = general_sentences()
    by_words: dict[tuple[str, ...], str] = {}
    for text in texts:
        by_words.setdefault(plain_words(text), " ".join(text.split()))
    is_known = sum(words in recorded for words in by_words)
    kept = {
        words: text
        for words, text in by_words.items()
        if _FEWEST_WORDS <= len(words) <= request.max_words and words not in recorded
    }
    remarks = []
    if is_known:
        remarks.append(f"{is_known:,} sentences are recorded already")
    if uneven := len([words for words in by_words if words]) - is_known - len(kept):
        remarks.append(
            f"{uneven:,} sentences have fewer than {_FEWEST_WORDS} or more than "
            f"{request.max_words} words"
        )
    joined = [f" {' '.join(words)} " for words in kept]
    for term, own in zip(wanted.terms, term_words(wanted), strict=True):
        if not any(f" {' '.join(own)} " in sentence for sentence in joined):
            for carrier in carriers(request.language):
                text = carrier.replace("{}", term)
                if (words := plain_words(text)) not in recorded:
                    kept.setdefault(words, text)
    if not kept:
        raise NegativeAnswerError(
            "no sentence is left to record: " + "; ".join(remarks),
            hint="name another text: moonshine-tune data next text.txt",
        )
    return list(kept.values()), remarks


def _wanted(request: NextRequest) -> Wanted:
    terms = read_key_terms(request.terms) if request.terms else ()
    missed: dict[str, tuple[int, int]] = {}
    for folder in request.evaluations:
        for word, (wrong, spoken) in _missed(folder, request.language).items():
            before = missed.get(word, (0, 0))
            missed[word] = (before[0] + wrong, before[1] + spoken)
    unsure: dict[str, list[float]] = {}
    for path in request.transcripts:
        for word, confidence in _confidences(path):
            unsure.setdefault(word, []).append(confidence)
    means = {word: sum(values) / len(values) for word, values in unsure.items()}
    return Wanted(terms, missed, {word: mean for word, mean in means.items() if mean < _SURE})


def _missed(folder: Path, language: str) -> dict[str, tuple[int, int]]:
    """How often each word was missed and spoken, of those that are often missed."""
    if not (folder / _HYPOTHESES).is_file():
        raise RequestError(
            "no evaluation in this folder",
            where=folder,
            hint=f"make one: moonshine-tune evaluate --manifest test.jsonl --out {quoted(folder)}",
        )
    # Without the changes that a scoring normalizer makes: the words are looked up in texts.
    normalizer = normalizer_for("basic-1", language)
    spoken: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for item in read_scored(folder / _HYPOTHESES):
        for token in align(item.reference, item.hypothesis, normalizer):
            if token.reference:
                spoken[token.reference] += 1
                wrong[token.reference] += token.kind != "same"
    return {
        word: (count, spoken[word])
        for word, count in wrong.items()
        if count and count >= _LEAST_MISSED * spoken[word]
    }


def _confidences(path: Path) -> Iterator[tuple[str, float]]:
    """Words with their confidence, of a manifest of `transcribe --words`."""
    has_words = False
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            words: Sequence[Any] = parse_json_object(line).get("words") or ()
            pairs = [(str(word["text"]), float(word["confidence"])) for word in words]
        except (JsonError, TypeError, ValueError, KeyError) as error:
            raise RequestError("not a transcript with words", where=path, line=number) from error
        for text, confidence in pairs:
            has_words = True
            for word in plain_words(text):
                yield word, confidence
    if not has_words:
        raise RequestError(
            "no word has a confidence",
            where=path,
            hint="transcribe with: moonshine-tune transcribe recordings --words --format jsonl "
            "--out words.jsonl",
        )
