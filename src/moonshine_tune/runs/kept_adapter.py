"""Which adapter the scores of a run are of: `selection.json` has the checksums of its files.

An adapter may be edited or replaced by hand, and for good reasons. The scores that were written
with it are then of other weights, which everything that shows or repeats them says.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, sha256_of
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import RunRecord, SelectionRecord
from moonshine_tune.runs.summary import ENDED

_Scores = TypeVar("_Scores", bound=SelectionRecord)
_WEIGHTS, _CONFIG = "weights", "config"
_FILES = {_WEIGHTS: ADAPTER_WEIGHTS_FILE, _CONFIG: ADAPTER_CONFIG_FILE}


def adapter_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of what decides what an adapter computes: its matrices, and how they are applied.

    Empty where a file is missing or damaged: whoever needs the adapter reports that. Of the
    configuration the content counts, without the name of the base, which packages shorten.
    """
    with suppress(RequestError, OSError):
        config = read_json(folder / ADAPTER_CONFIG_FILE)
        config.pop("base_model_name_or_path", None)
        text = json.dumps(config, sort_keys=True)
        return {
            _WEIGHTS: sha256_of(folder / ADAPTER_WEIGHTS_FILE),
            _CONFIG: hashlib.sha256(text.encode()).hexdigest(),
        }
    return {}


def write_selection(folder: Path, scores: _Scores) -> _Scores:
    """Write `selection.json` of the adapter that is in a folder; returns it, with its checksums."""
    sealed = with_checksums(scores, folder)
    sealed.write(folder / "selection.json")
    return sealed


def with_checksums(scores: _Scores, folder: Path) -> _Scores:
    """Scores with the checksums of the adapter that they are of."""
    return scores.model_copy(update={"sha256": adapter_checksums(folder)})


def altered_adapter(folder: Path) -> str:
    """Why an adapter is not the one that its recorded scores are of, in a sentence.

    Empty where it is that one, and where no record tells: of PEFT, or of an earlier version.

    Args:
        folder: of the adapter, in a run or alone.
    """
    scored, chosen = _scored(folder), _chosen(folder)
    own = adapter_checksums(folder) if scored or chosen else {}
    if not own:
        return ""
    if changed := [_FILES.get(part, part) for part, sha in scored.items() if own.get(part) != sha]:
        return (
            f"{' and '.join(changed)} changed after the training: the scores that are recorded "
            "for this adapter are of other weights"
        )
    if chosen and chosen != own:
        return (
            "the adapter is another one than that which the run chose: the scores of the run are "
            "of other weights"
        )
    return ""


def _scored(folder: Path) -> Mapping[str, str]:
    with suppress(RequestError):
        return SelectionRecord.read(folder / "selection.json").sha256
    return {}


def _chosen(folder: Path) -> Mapping[str, str]:
    """Checksums of the choice of the run around an adapter; while it goes on, that may change."""
    run = RunFolder(folder.absolute().parent)
    if run.adapter_dir == folder.absolute() and run.record_path.is_file():
        with suppress(RequestError):
            record = RunRecord.read(run.record_path)
            return record.result.best.sha256 if record.status in ENDED else {}
    return {}
