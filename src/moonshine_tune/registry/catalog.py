"""Every published Moonshine model, from `models.yaml`: names, family, size, license and sources."""

from dataclasses import dataclass

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import nearest
from moonshine_tune.core.yaml import read_shipped

ORGANIZATIONS = ("moonshine-ai", "UsefulSensors")
"""Hub organizations in the order in which they are tried: the current name, then the former one."""
CATALOG = read_shipped("registry", "models")
"""The content of `models.yaml`."""

# In these scripts (and for many Vietnamese vowels) a byte-level piece is a part of one character,
# so that a second of speech needs about twice the tokens. A limit that is too low cuts transcripts
# off; one that is too high only costs time when a model does not stop.
_MANY_TOKENS = frozenset({"ar", "ja", "ko", "uk", "vi", "zh"})


@dataclass(frozen=True)
class ModelRecord:
    """One published model.

    Attributes:
        parameters: number of weights as published.
        hub_ids: tried in order.
        store: its architecture (`ModelArch`) in Moonshine's own store, if that has the model.
        tokens_per_second: limits greedy decoding.
    """

    name: str
    size: str
    family: str
    language: str
    parameters: int
    hub_ids: tuple[str, ...]
    store: str | None
    license: str
    tokens_per_second: float
    in_wheel: bool

    @property
    def language_name(self) -> str:
        """The language in English words."""
        return str(CATALOG["languages"][self.language])


def _record(
    size: str, language: str, parameters: int, *, store: str | None = None, on_hub: bool = True
) -> ModelRecord:
    english = language == "en"
    name = size if english else f"{size}-{language}"
    return ModelRecord(
        name=name,
        size=size,
        family=CATALOG["shapes"][size]["family"],
        language=language,
        parameters=parameters,
        hub_ids=tuple(f"{owner}/moonshine-{name}" for owner in ORGANIZATIONS) if on_hub else (),
        store=store,
        license=CATALOG["licenses"]["english" if english else "others"],
        tokens_per_second=13.0 if language in _MANY_TOKENS else 6.5,
        in_wheel=name == "tiny",
    )


MODELS: tuple[ModelRecord, ...] = tuple(_record(**row) for row in CATALOG["models"])
_BY_NAME = {record.name: record for record in MODELS}


def known_names() -> tuple[str, ...]:
    """All names that `find_model` accepts, aliases last."""
    return (*_BY_NAME, *CATALOG["aliases"])


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
    record = _BY_NAME.get(CATALOG["aliases"].get(key, key))
    if record is not None:
        return record
    return next((r for r in MODELS if key in (hub_id.lower() for hub_id in r.hub_ids)), None)


def nearest_hint(name: str) -> str:
    """A hint that names the catalog's nearest name, or the command that lists them."""
    near = nearest(name.strip().lower(), known_names(), cutoff=0.6)
    return f"{f'did you mean {near}? ' if near else ''}all names: moonshine-tune models list"
