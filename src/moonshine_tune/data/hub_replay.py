"""Replay audio of the hub: a part of the corpus that Moonshine's own trainer replays."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.network import why_unreachable
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers.base import HubOptions, ImportRequest
from moonshine_tune.importers.run import import_data
from moonshine_tune.registry.hub import hub_endpoint, offline_by_environment
from moonshine_tune.runs.records import ReplayRecord

# `DEFAULT_REPLAY` of moonshine_voice.lora: English speech of YODAS, cut and transcribed.
DATASET = "moonshine-ai/yodas-en-replay"
# As its card and Moonshine's notebook state it: use is free if the source is named.
LICENSE = "cc-by-3.0"
# A run replays some 200 clips. Each row is a clip of up to 30 s, of about 300 kB.
_MAX_CLIPS = 400
_INSTEAD = "use --replay auto, or recordings of your own: --replay FOLDER"


def fetch_hub_replay(folder: Path, progress: Progress) -> tuple[ReplayRecord, Sequence[Utterance]]:
    """Stream the first clips into a folder; returns their record and the clips, without texts.

    Raises:
        MachineError: the hub cannot be reached, or `datasets` is not installed.
        RequestError: the license is not the known one any more.
    """
    _check_reachable()
    license_name = _license()
    if license_name != LICENSE:
        raise RequestError(
            f"the license of this dataset is {license_name or 'not stated'} now, and was {LICENSE}",
            where=DATASET,
            hint="read its page; if it suits you: moonshine-tune data import "
            f"hf://{DATASET} --no-text --limit {_MAX_CLIPS} --out replay.jsonl",
        )
    progress.say(
        f"replay hub: {_MAX_CLIPS} clips of {DATASET}, license {LICENSE}: name the source where "
        "you publish the adapter"
    )
    request = ImportRequest(
        f"hf://{DATASET}",
        folder / "imported.jsonl",
        want_text=False,
        hub=HubOptions(limit=_MAX_CLIPS),
        audio_out=None,
    )
    import_data(request, progress)
    utterances = read_manifest(request.out, require_text=False).utterances[:_MAX_CLIPS]
    request.out.unlink()
    record = ReplayRecord(kind="hub", source=DATASET, license=LICENSE)
    return record, utterances


def _check_reachable() -> None:
    if Path(DATASET).is_dir():
        return
    variable = offline_by_environment()
    reason = f"the network is forbidden ({variable})" if variable else None
    reason = reason or why_unreachable(hub_endpoint())
    if reason:
        raise MachineError(f"--replay hub needs the model hub: {reason}", hint=_INSTEAD)


def _license() -> str:
    """The license that the card of the dataset states; empty where it states none.

    Raises:
        MachineError: the card cannot be fetched.
    """
    from huggingface_hub import DatasetCard

    card = Path(DATASET) / "README.md"
    try:
        content = DatasetCard.load(card if card.is_file() else DATASET)
    except Exception as error:
        # The library's errors of connection differ between its versions.
        raise MachineError(
            f"the card of {DATASET} cannot be read: {first_line(error)}", hint=_INSTEAD
        ) from error
    name = ""
    with suppress(AttributeError):
        name = str(content.data.license or "").lower()
    return name
