"""Utterances in which terms are spoken: by synthetic voices in short sentences, and by people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.tts import SpeechSynthesizer
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.aliases.written import SpokenTerm, plain_words, spoken_terms

# Voices that tiny understands best, of both sexes; the first ones are used where fewer are wanted.
_ENGLISH_VOICES = (
    "en-us+f3", "en-us", "en-gb+m5", "en-us+f2", "en-us+m3", "en-us+m8", "en-us-nyc+m2",
    "en-us+steph", "en-gb+m1", "en-gb+m6",
)  # fmt: skip
_VARIANTS = ("", "+f2", "+m3", "+f3", "+m8", "+f4", "+m1")
_RATES_WPM = (150, 170)
# Sentences of the user with a term: as carriers, short enough to be spoken well.
_MOST_OWN_CARRIERS, _LONGEST_CARRIER_WORDS = 4, 20
_MOST_REAL_TAKES = 200


@dataclass(frozen=True)
class Take:
    """An utterance with a term in it, synthesized or recorded."""

    spoken: SpokenTerm
    samples: Samples


@dataclass(frozen=True)
class PlannedTake:
    """A sentence to synthesize."""

    spoken: SpokenTerm
    text: str
    voice: str
    rate_wpm: int


def carriers(language: str) -> tuple[str, ...]:
    """Short sentences with `{}` for a term; none for languages other than English."""
    if not language.lower().startswith("en"):
        return ()
    source = resources.files("moonshine_tune.data.aliases") / "carriers.txt"
    return tuple(source.read_text(encoding="utf-8").splitlines())


def voices_for(synthesizer: SpeechSynthesizer, language: str, count: int) -> tuple[str, ...]:
    """Voices of a language, at most `count`; none where espeak-ng does not speak it."""
    if language.lower().startswith("en"):
        return _ENGLISH_VOICES[:count]
    own = synthesizer.voices(language)
    return tuple(f"{voice}{variant}" for variant, voice in product(_VARIANTS, own))[:count]


def planned_takes(
    term: str, own_sentences: Sequence[str], voices: Sequence[str], language: str
) -> list[PlannedTake]:
    """The sentences with a term and who speaks them.

    Args:
        own_sentences: of the user, with the term.
    """
    short = [text for text in own_sentences if len(text.split()) <= _LONGEST_CARRIER_WORDS]
    chosen = [short[index] for index in evenly_spaced(len(short), _MOST_OWN_CARRIERS)]
    sentences = [(text, next(spoken_terms(text, [term]))) for text in chosen]
    for carrier in carriers(language) or ("{}.",):
        before, _, after = carrier.partition("{}")
        spoken = SpokenTerm(term, plain_words(before), plain_words(after))
        sentences.append((carrier.replace("{}", term), spoken))
    return [
        PlannedTake(spoken, text, voice, _RATES_WPM[number % len(_RATES_WPM)])
        for number, ((text, spoken), voice) in enumerate(product(sentences, voices))
    ]


def synthesized(synthesizer: SpeechSynthesizer, planned: Sequence[PlannedTake]) -> Iterator[Take]:
    """The planned sentences, spoken."""
    for item in planned:
        samples = synthesizer.speak(item.text, voice=item.voice, rate_wpm=item.rate_wpm)
        yield Take(item.spoken, samples)


def real_takes(
    utterances: Sequence[Utterance], terms: Sequence[str]
) -> dict[str, list[tuple[Utterance, SpokenTerm]]]:
    """The utterances of a manifest in which each term is spoken; at most 200 of a term."""
    by_term: dict[str, list[tuple[Utterance, SpokenTerm]]] = {term: [] for term in terms}
    for utterance in utterances:
        for spoken in spoken_terms(utterance.text or "", terms):
            by_term[spoken.term].append((utterance, spoken))
    return {
        term: [takes[index] for index in evenly_spaced(len(takes), _MOST_REAL_TAKES)]
        for term, takes in by_term.items()
    }


def recorded(takes: Sequence[tuple[Utterance, SpokenTerm]]) -> Iterator[Take]:
    """The recordings of takes, read one after the other."""
    for utterance, spoken in takes:
        yield Take(spoken, load_utterance(utterance))


def sentences_with(texts: Sequence[str], terms: Sequence[str]) -> Mapping[str, list[str]]:
    """The texts that have each term in them."""
    by_term: dict[str, list[str]] = {term: [] for term in terms}
    for text in texts:
        for term in {spoken.term for spoken in spoken_terms(text, terms)}:
            by_term[term].append(text)
    return by_term
