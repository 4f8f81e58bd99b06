"""A list of key terms that a command proposes, and its file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.corpus.keyterms import ProposedTerm

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


def check_list(out: Path | None, at_most: int, least: int, *, force: bool) -> None:
    """Refuse an existing list without `force`, and numbers below 1."""
    if out is not None and out.exists() and not force:
        raise RequestError("the file exists already", where=out, hint="replace it with --force")
    if at_most < 1 or least < 1:
        raise RequestError("the numbers of terms and of occurrences must be at least 1")


def write_list(out: Path | None, terms: Sequence[ProposedTerm], *, force: bool) -> None:
    """Write a list of terms to a file, if one is named."""
    if out is not None:
        text = _HEADING + "".join(f"{item.term}\n" for item in terms)
        write_text_atomic(out, text, replace=force)
