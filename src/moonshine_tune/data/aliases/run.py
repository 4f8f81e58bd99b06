"""`data aliases`: what a model writes in place of listed terms, so that it can be mapped back."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.tts import SpeechSynthesizer
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import check_writable, holds_out, sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version, versions
from moonshine_tune.corpus.keyterms import read_key_terms
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.data.aliases.choose import (
    TermAliases,
    WordFrequencies,
    Written,
    alias_table,
    choose_aliases,
)
from moonshine_tune.data.aliases.takes import (
    Take,
    planned_takes,
    real_takes,
    recorded,
    sentences_with,
    synthesized,
    voices_for,
)
from moonshine_tune.data.aliases.transcripts import CODE, REPEATS, transcribe_takes
from moonshine_tune.data.aliases.written import SpokenTerm, plain_words, written_for
from moonshine_tune.data.source_texts import read_texts
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import adapter_disabled, find_adapter
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.records import AliasesRecord

MOST_VOICES = 10
# Languages whose texts have no spaces between words.
_WITHOUT_SPACES = ("zh", "ja", "th", "yue")


@dataclass(frozen=True)
class AliasesRequest:
    """What to look for.

    Attributes:
        terms: file of terms, one per line.
        takes: manifest of recordings; those in which a term is spoken are used.
        texts: manifests and plain texts of the user; no alias is in them, and their sentences with
            a term are spoken too.
        voices: number of synthetic voices; 0 for recordings alone.
        force: replace an existing `out`.
    """

    terms: Path
    out: Path
    model: str | None = None
    adapter: Path | None = None
    takes: Path | None = None
    texts: tuple[Path, ...] = ()
    voices: int = 6
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class AliasesResult:
    """The file that was written, and what is in it."""

    out: Path
    terms: tuple[TermAliases, ...]
    record: AliasesRecord

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        return {"out": str(self.out)} | self.record.to_json()


@holds_out(lambda request, progress: request.out)
def find_aliases(request: AliasesRequest, progress: Progress) -> AliasesResult:
    """Write the aliases of the listed terms to `request.out`.

    What a model writes is kept in the cache term by term, so that an interrupted command goes on.

    Raises:
        RequestError: nothing to read, an existing `out`, or a language without words.
        MachineError: espeak-ng does not load here.
    """
    _check(request)
    terms = _distinct(read_key_terms(request.terms), request.terms)
    takes = read_manifest(request.takes).utterances if request.takes else ()
    texts = [text for path in request.texts for text in read_texts(path)]
    with ExitStack() as stack:
        opened = open_model(
            request.model,
            adapter=request.adapter,
            device=request.device,
            dtype="float32",
            progress=progress,
        )
        language = next((item.language for item in takes if item.language), opened.language)
        _check_language(language)
        source = _Takes(request, terms, takes, texts, language, stack)
        for term in source.without:
            progress.say(f"{term}: no take of it; add some, or synthetic voices with --voices 6")
        adapter = None
        if request.adapter is not None:
            adapter = sha256_of(find_adapter(request.adapter) / ADAPTER_WEIGHTS_FILE)
        written = _written(terms, source, opened, adapter, progress)
    references = [item.text for item in takes if item.text]
    frequencies = WordFrequencies(opened.model.tokenizer, language)
    chosen = choose_aliases(written, frequencies, [*texts, *references])
    record = _record(chosen, opened, language, adapter)
    record.write(request.out)
    return AliasesResult(request.out, chosen, record)


def _check(request: AliasesRequest) -> None:
    if request.out.exists() and not request.force:
        raise RequestError(
            "the file exists already", where=request.out, hint="replace it with --force"
        )
    if not 0 <= request.voices <= MOST_VOICES:
        raise RequestError(f"--voices {request.voices}: from 0 to {MOST_VOICES}")
    if not request.voices and request.takes is None:
        raise RequestError(
            "no voice speaks the terms: --voices 0 and no --takes",
            hint="leave --voices out, or name recordings with --takes manifest.jsonl",
        )
    check_writable(request.out)


def _check_language(language: str) -> None:
    if language.lower().split("-")[0] in _WITHOUT_SPACES:
        raise RequestError(
            f"aliases go by words, and texts in {language!r} have no spaces between them",
            hint="train on recordings of the terms instead; data next says which",
        )


def _distinct(terms: Sequence[str], path: Path) -> tuple[str, ...]:
    """The terms without those that are spelled the same but for case and punctuation."""
    by_words: dict[tuple[str, ...], str] = {}
    for term in terms:
        words = plain_words(term)
        if not words:
            raise RequestError(
                f"{term!r} has no word in it", where=path, hint="remove this line from the list"
            )
        if by_words.setdefault(words, term) != term:
            raise RequestError(
                f"{by_words[words]!r} and {term!r} differ in their spelling only",
                where=path,
                hint="keep the one that transcripts should have",
            )
    return tuple(by_words.values())


class _Takes:
    """The takes of each term, made or read when they are needed.

    Attributes:
        without: terms that have none.
    """

    def __init__(
        self,
        request: AliasesRequest,
        terms: Sequence[str],
        takes: Sequence[Utterance],
        texts: Sequence[str],
        language: str,
        stack: ExitStack,
    ) -> None:
        self._real = real_takes(takes, terms)
        self._texts = sentences_with(texts, terms)
        self._language = language
        self._voices: tuple[str, ...] = ()
        if request.voices:
            self._synthesizer = stack.enter_context(SpeechSynthesizer())
            self._voices = voices_for(self._synthesizer, language, request.voices)
        if request.voices and not self._voices and request.takes is None:
            raise RequestError(
                f"espeak-ng has no voice for {language!r}",
                hint="name recordings of the terms with --takes manifest.jsonl",
            )
        self.without = [] if self._voices else [term for term in terms if not self._real[term]]

    def identity(self, term: str) -> list[Any]:
        """What the takes of a term depend on."""
        spoken = [asdict(item) for item in self._planned(term)]
        files = [
            (str(item.audio), item.start, item.end, item.audio.stat().st_mtime_ns, item.text)
            for item, _ in self._real[term]
        ]
        return [spoken, package_version("espeakng-loader"), files]

    def of(self, term: str) -> Iterable[Take]:
        """The takes of a term."""
        yield from recorded(self._real[term])
        if self._voices:
            yield from synthesized(self._synthesizer, self._planned(term))

    def spoken(self, term: str) -> list[SpokenTerm]:
        """The same without the sound."""
        return [spoken for _, spoken in self._real[term]] + [
            item.spoken for item in self._planned(term)
        ]

    def _planned(self, term: str) -> list[Any]:
        return planned_takes(term, self._texts[term], self._voices, self._language)


def _written(
    terms: Sequence[str],
    source: _Takes,
    opened: OpenedModel,
    adapter: str | None,
    progress: Progress,
) -> dict[str, Written]:
    """What base and adapted model write in the place of each term."""
    written = {term: Written() for term in terms}
    sides: dict[str | None, Callable[[], Any]] = {adapter: nullcontext}
    if adapter is not None:
        # An adapter has unlearned some errors of its base, and makes others in other voices.
        sides[None] = lambda: adapter_disabled(opened.model)
    with progress.stage("speaking and transcribing terms", len(terms)) as stage:
        for term in terms:
            spoken = source.spoken(term)
            for side, context in sides.items():
                identity = [opened.base["sha256"], side, recipe_hash(*CODE), term]
                path = cached_path("aliases", [*identity, *source.identity(term)])
                count = len(spoken) * REPEATS
                texts = read_cached(path, list[str], count, progress)
                if texts is None:
                    with context():
                        texts = transcribe_takes(opened, source.of(term), len(spoken))
                    write_cached(path, texts, progress)
                for number, text in enumerate(texts):
                    take = spoken[number % len(spoken)]
                    is_take = number < len(spoken) and side == adapter
                    written[term].add(term, written_for(text, take), is_take=is_take)
            stage.advance(1, term)
    return written


def _record(
    chosen: Sequence[TermAliases], opened: OpenedModel, language: str, adapter: str | None
) -> AliasesRecord:
    terms = [
        {
            "term": item.term,
            "takes": item.takes,
            "right": item.right,
            "unclear": item.unclear,
            "aliases": [{"text": each.text, "count": each.count} for each in item.aliases],
            "left_out": [asdict(each) for each in item.left_out],
        }
        for item in chosen
    ]
    content = {
        "schema_version": 1,
        "aliases": alias_table(chosen),
        "language": language,
        "model": str(opened.base["name"]),
        **({} if adapter is None else {"adapter_sha256": adapter}),
        "terms": terms,
        "versions": versions(),
    }
    return AliasesRecord.model_validate(content)
