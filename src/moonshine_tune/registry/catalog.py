"""Every published Moonshine model: its names, family, size, licence and sources.

Facts: hub ids and parameter counts from the models' cards; architecture numbers and languages of
Moonshine's own store from the catalog inside moonshine-voice 0.1.5.
"""

from dataclasses import dataclass

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import nearest

ORGANIZATIONS = ("moonshine-ai", "UsefulSensors")
"""Hub organizations in the order in which they are tried: the current name, then the former one."""

_MIT = "MIT"
_COMMUNITY = (
    "Moonshine Community License (not MIT; read moonshine.ai/license before commercial use)"
)
# In these scripts (and for many Vietnamese vowels) a byte-level piece is a part of one character,
# so that a second of speech needs about twice the tokens. A limit that is too low cuts transcripts
# off; one that is too high only costs time when a model does not stop.
_MANY_TOKENS = frozenset({"ar", "ja", "ko", "uk", "vi", "zh"})
_LANGUAGES = {
    "en": "English", "ar": "Arabic", "de": "German", "es": "Spanish", "ja": "Japanese",
    "ko": "Korean", "tl": "Tagalog", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass(frozen=True)
class StoreKey:
    """The name of a model in Moonshine's own store: language code and `ModelArch`."""

    language: str
    architecture: str


@dataclass(frozen=True)
class ModelRecord:
    """One published model.

    `parameters` counts weights as published. `hub_ids` are tried in order. `store` is None where
    Moonshine's own store does not have the model. `tokens_per_second` limits greedy decoding.
    """

    name: str
    family: str
    language: str
    parameters: int
    hub_ids: tuple[str, ...]
    store: StoreKey | None
    licence: str
    tokens_per_second: float
    in_wheel: bool = False

    @property
    def language_name(self) -> str:
        """The English name of the language."""
        return _LANGUAGES[self.language]


_ALIASES = {
    "tiny-en": "tiny",
    "base-en": "base",
    "small": "streaming-small",
    "medium": "streaming-medium",
    "streaming-tiny-en": "streaming-tiny",
    "streaming-small-en": "streaming-small",
    "streaming-medium-en": "streaming-medium",
}


def _record(
    size: str, language: str, parameters: int, *, store: str | None, on_hub: bool = True
) -> ModelRecord:
    name = size if language == "en" else f"{size}-{language}"
    english = language == "en"
    return ModelRecord(
        name=name,
        family="streaming" if size.startswith("streaming-") else "v1",
        language=language,
        parameters=parameters,
        hub_ids=tuple(f"{owner}/moonshine-{name}" for owner in ORGANIZATIONS) if on_hub else (),
        store=StoreKey(language, store) if store else None,
        licence=_MIT if english else _COMMUNITY,
        tokens_per_second=13.0 if language in _MANY_TOKENS else 6.5,
        in_wheel=name == "tiny",
    )


def _build() -> tuple[ModelRecord, ...]:
    tiny, base = 27_092_736, 61_513_920
    records = [
        _record("tiny", "en", tiny, store="TINY"),
        _record("base", "en", base, store="BASE"),
        _record("streaming-tiny", "en", 44_000_000, store="TINY_STREAMING"),
        _record("streaming-small", "en", 123_000_000, store="SMALL_STREAMING"),
        _record("streaming-medium", "en", 265_900_000, store="MEDIUM_STREAMING"),
    ]
    for language in ("ar", "ja", "ko", "uk", "vi", "zh"):
        in_store = language in ("ja", "ko")
        records.append(_record("tiny", language, tiny, store="TINY" if in_store else None))
    for language in ("ar", "es", "ja", "ko", "uk", "vi", "zh"):
        store = None if language == "ko" else "BASE"
        records.append(_record("base", language, base, store=store, on_hub=language != "es"))
    for language in ("ar", "de", "es", "ja", "tl", "vi", "zh"):
        records.append(_record("streaming-tiny", language, 27_000_000, store="TINY_STREAMING"))
    for language in ("de", "es", "ja"):
        records.append(_record("streaming-small", language, 112_900_000, store="SMALL_STREAMING"))
    return tuple(records)


MODELS: tuple[ModelRecord, ...] = _build()
_BY_NAME = {record.name: record for record in MODELS}


def known_names() -> tuple[str, ...]:
    """All names that `find_model` accepts, aliases last."""
    return (*_BY_NAME, *_ALIASES)


def find_model(name: str) -> ModelRecord:
    """The record of a catalog name or alias, in any case.

    Raises:
        RequestError: no such model; the hint names the nearest one.
    """
    record = lookup_model(name)
    if record is None:
        raise RequestError(f"no Moonshine model is called {name!r}", hint=nearest_hint(name))
    return record


def lookup_model(name: str) -> ModelRecord | None:
    """The record of a catalog name, an alias or a hub id of the catalog, or None."""
    key = name.strip().lower()
    record = _BY_NAME.get(_ALIASES.get(key, key))
    if record is not None:
        return record
    return next((r for r in MODELS if key in (hub_id.lower() for hub_id in r.hub_ids)), None)


def nearest_hint(name: str) -> str:
    """A hint that names the catalog's nearest name, or the command that lists them."""
    near = nearest(name.strip().lower(), known_names(), cutoff=0.6)
    if near:
        return f"did you mean {near}? all names: moonshine-tune models list"
    return "all names: moonshine-tune models list"
