"""`apply`: the runtime folder of an adapter file, on the machine where it is used."""

import time
from pathlib import Path

from pydantic import ValidationError

from moonshine_tune.core.bounded_files import read_bounded
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder, holds_out
from moonshine_tune.runs.records import EXPORT_FILE, AppliedRecord, ExportRecord
from moonshine_tune.runtime.apply_adapter import AdapterError, apply_adapter, read_adapter
from moonshine_tune.runtime.formats import SHERPA_ONNX
from moonshine_tune.runtime.layout import TOKENS_FILE, read_layout
from moonshine_tune.runtime.sherpa_transcriber import write_tokens

# Of an adapter it is a few MB; of a fully tuned model as much as its base.
_MOST_BYTES = 1_000_000_000


@holds_out(lambda file, base, out: out)
def apply(file: Path, base: Path, out: Path) -> AppliedRecord:
    """Make the runtime folder `out` from an adapter file and the runtime folder of its base.

    Every byte is that of the full export.

    Raises:
        RequestError: a damaged file, files of another base, or `out` exists.
    """
    start_time = time.monotonic()
    if not file.is_file():
        raise RequestError(
            "no such adapter file",
            where=file,
            hint="`moonshine-tune export --adapter-only` writes one",
        )
    if not base.is_dir():
        raise RequestError("no such runtime folder", where=base)
    content = read_bounded(file, _MOST_BYTES)
    record = _record(content, file)
    with complete_folder(out) as scratch:
        try:
            digests = apply_adapter(content, base, scratch)
        except AdapterError as error:
            name = record.base.name or "its base"
            raise RequestError(
                str(error), where=file, hint=f"it was made for the runtime folder of {name}: --to"
            ) from error
        if record.format == SHERPA_ONNX and not (scratch / TOKENS_FILE).is_file():
            write_tokens(read_layout(scratch), scratch)
        record.write(scratch / EXPORT_FILE)
    return AppliedRecord(
        runtime_dir=str(out),
        adapter_file=str(file),
        base=record.base,
        sha256=digests,
        seconds=round(time.monotonic() - start_time, 2),
    )


def _record(content: bytes, file: Path) -> ExportRecord:
    try:
        header, _ = read_adapter(content)
        return ExportRecord.model_validate(header.get("export", {}))
    except AdapterError as error:
        raise RequestError(str(error), where=file, hint="copy or export it again") from error
    except ValidationError as error:
        raise RequestError(
            "the record in this adapter file has values of a wrong type", where=file
        ) from error
