"""Tables in JSON: lines, one array, or an object with the records inside; the content decides.

NeMo writes lines into a file called `.json`; Label Studio nests the fields of a recording;
others write a dictionary of ids, or of recordings and texts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.json_text import JsonError, parse_json, parse_json_line
from moonshine_tune.importers.base import ColumnNames, Rows, read_text
from moonshine_tune.importers.delimited import Records, Table
from moonshine_tune.importers.tabular import SPLIT_NAMES, rows_of_table, table_text

ENDINGS = (".json", ".jsonl", ".ndjson", ".jl")
# Keys of an object that names or describes a recording, likeliest first.
_AUDIO_PATH = ("path", "filename", "file_name", "file", "url", "uri", "src", "audio", "name")
_AUDIO_KEYS = re.compile(
    r"(audio|sound|speech|wav|recording|clip|voice)(_?(file_?)?(path|name|url))?|(file_?)?(path|name)|"
    r"file|audio_?url|url|src|mp3|flac|media",
    re.IGNORECASE,
)
# Any object may have a path; one called so names a recording whatever its value.
_SURE_KEY = re.compile(r"(audio|wav)(_?(file_?)?(path|name))?", re.IGNORECASE)
# Columns of tables are not called so.
_UNUSUAL_KEYS = frozenset(
    ("src", "url", "fname", "name", "mp3", "flac", "media", "voice", "sound", "speech", "audio_url",
     "audioUrl")
)  # fmt: skip
_TEXT_KEYS = ("text", "transcript", "transcription", "sentence", "value", "normalized")
# Lists of the parts of one recording, and keys of their times.
_PARTS = ("segments", "sentences", "utterances", "cues", "annotations", "supervisions")
_START = ("start", "start_time", "begin", "offset")
_DEEPEST = 4
# Label Studio writes a hash in front of the name of an uploaded file.
_UPLOAD = re.compile(r"/data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?")


def is_json(content: str) -> bool:
    """Whether a text begins as JSON records do."""
    return content.lstrip()[:1] in ("{", "[")


def is_json_file(path: Path) -> bool:
    """Whether a table is JSON: by its ending, else by its first character."""
    if path.suffix.lower() in ENDINGS or not path.is_file():
        return path.suffix.lower() in ENDINGS
    with path.open("rb") as stream:
        return is_json(stream.read(64).decode("utf-8-sig", errors="replace"))


def names_recordings(path: Path) -> bool:
    """Whether a JSON file is a table: its first record names a recording."""
    try:
        with path.open("rb") as stream:
            line = _parsed(stream.readline(1 << 20).decode("utf-8-sig", errors="replace"))
        if isinstance(line, dict) and _audio_key(_flat(line)):
            return True
        content = read_text(path)
        records = _records(content) if is_json(content) else []
    except (RequestError, OSError):
        return False
    return any(isinstance(record, dict) and _audio_key(record) for _, record in records[:20])


def read_json_table(
    path: Path,
    names: ColumnNames,
    *,
    want_text: bool,
    recordings: Sequence[Path] = (),
    encoding: str | None = None,
) -> Rows:
    """Read a table in JSON of any nesting.

    Args:
        want_text: whether a key for the text is required.
        recordings: audio files that the table may name, which tell keys apart.
        encoding: of the file, unless it is UTF-8 or UTF-16.

    Raises:
        RequestError: not text, no records, or no key for audio (or text).
        ProblemsError: the keys can be read in more than one way.
    """
    stems = {recording.stem for recording in recordings}
    return rows_of_table(path, json_table(path, encoding), names, stems, want_text=want_text)


def json_table(path: Path, encoding: str | None) -> Table:
    """A table in JSON before its keys have roles.

    Raises:
        RequestError: not text, or no records.
    """
    records = _records(table_text(path, encoding))
    heading: dict[str, None] = {}
    for _, record in records:
        if isinstance(record, dict):
            heading.update(dict.fromkeys(record))
    if not heading:
        problem = next((f" ({record})" for _, record in records if isinstance(record, str)), "")
        raise RequestError(f"the table has no rows{problem}", where=path)
    return Table(list(heading), records)


def _records(content: str) -> Records:
    """All records of a text, flat."""
    parsed = [
        (f":{number}", _parsed(line))
        for number, line in enumerate(content.split("\n"), start=1)
        if line.strip()
    ]
    is_lines = bool(parsed) and isinstance(parsed[0][1], dict)
    if not is_lines or (len(parsed) == 1 and not _audio_key(_flat(parsed[0][1]))):
        document = _parsed(content, parse_json)
        if not isinstance(document, str):
            return _numbered(_inner(document))
        if not any(isinstance(item, dict) for _, item in parsed):
            return [("", document)]
    flat: Records = []
    for where, record in parsed:
        if not isinstance(record, dict):
            flat.append((where, record if isinstance(record, str) else "not a JSON object"))
        elif _is_plain(record):
            flat.append((where, record))
        else:
            flat += [(where, part) for part in _parts(_flat(record))]
    return flat


def _numbered(records: Iterable[dict[str, Any] | str]) -> Records:
    return [(f", record {number}", record) for number, record in enumerate(records, start=1)]


def _parsed(text: str, parse: Callable[..., Any] = parse_json_line) -> Any:
    """The JSON value; or, as a string, why it is none. NaN is what pandas writes for no value."""
    try:
        value = parse(text, with_nan=True)
    except JsonError as error:
        return str(error)
    return "not a JSON object" if isinstance(value, str) else value


def _inner(value: Any, depth: int = 0) -> Iterator[dict[str, Any] | str]:
    """The records of a document: the objects that name recordings, with what is outside of them."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from _parts(_flat(item))
            else:
                yield "not a JSON object"
        return
    if not isinstance(value, dict) or depth > _DEEPEST:
        return
    if _audio_key(flat := _flat(value)):
        yield from _parts(flat)
        return
    items = list(value.items())
    if items and all(isinstance(text, str) and _is_audio(name) for name, text in items):
        yield from ({"audio": name, "text": text} for name, text in items)
        return
    objects = [(name, item) for name, item in items if isinstance(item, dict)]
    if len(objects) == len(items) and items:
        for name, item in items:
            flat = _flat(item)
            if _audio_key(flat):
                yield from _parts({"id": name} | flat)
            elif any(isinstance(flat.get(key), str) for key in _TEXT_KEYS):
                yield {"audio": name} | flat
            else:
                yield from _inner(item, depth + 1)
        return
    lists = [(name, list(_inner(item, depth + 1))) for name, item in items]
    named = [
        ({"split": SPLIT_NAMES[name]} if name in SPLIT_NAMES else {}, records)
        for name, records in lists
        if any(isinstance(record, dict) and _audio_key(record) for record in records)
    ]
    for split, records in named:
        yield from (record if isinstance(record, str) else split | record for record in records)


def _is_plain(record: dict[str, Any]) -> bool:
    """Whether a record needs no change, as nearly all: a path, a text, and nothing nested."""
    audio = record.get("audio", record.get("audio_filepath"))
    return (
        isinstance(audio, str)
        and isinstance(record.get("text"), str)
        and not audio.startswith(("/data/", "file:"))
    )


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose audio and text are strings, also where they are in objects or short lists."""
    flat = dict(record)
    for key in ("data", "row"):
        if isinstance(inner := record.get(key), dict):
            flat |= {name: value for name, value in inner.items() if name not in record}
            del flat[key]
    for key, value in list(flat.items()):
        only = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(only, dict):
            keys = _AUDIO_PATH if _AUDIO_KEYS.fullmatch(key) else _TEXT_KEYS
            inner = next((only[name] for name in keys if isinstance(only.get(name), str)), None)
            if inner is not None and (_AUDIO_KEYS.fullmatch(key) or key in _TEXT_KEYS):
                flat[key] = inner
        elif isinstance(only, str) and _AUDIO_KEYS.fullmatch(key):
            flat[key] = only
    if (named := _audio_key(flat)) is not None:
        flat[named] = _local(flat[named])
        if named in _UNUSUAL_KEYS:
            flat.setdefault("audio", flat[named])
    return flat


def _audio_key(record: dict[str, Any]) -> str | None:
    """The key that names a recording."""
    return next(
        (
            key
            for key, value in record.items()
            if isinstance(value, str)
            and value
            and (_SURE_KEY.fullmatch(key) or (_AUDIO_KEYS.fullmatch(key) and _is_audio(value)))
        ),
        None,
    )


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO_ENDINGS


def _local(audio: str) -> str:
    """The path of a recording that Label Studio names by an address."""
    if audio.startswith("/data/local-files"):
        return parse_qs(urlsplit(audio).query).get("d", [audio])[0]
    if _UPLOAD.match(audio):
        return unquote(_UPLOAD.sub("", audio, count=1))
    return unquote(audio.removeprefix("file://")) if audio.startswith("file://") else audio


def _parts(record: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
    """The record; or one for each part of it that has times, if it has no text itself.

    A string says why it cannot be used.
    """
    if any(isinstance(record.get(key), str) and record[key] for key in _TEXT_KEYS):
        yield record
        return
    regions = _annotated(record)
    if isinstance(regions, str):
        yield regions
        return
    if regions:
        outer = {key: value for key, value in record.items() if key not in _PARTS}
        outer = {key: value for key, value in outer.items() if not isinstance(value, list)}
        outer.pop("duration", None)
        is_several = len(regions) > 1
        for number, region in enumerate(regions, start=1):
            own = {"id": f"{outer['id']}-{number:05d}"} if is_several and "id" in outer else {}
            yield outer | region | own
        return
    for key in _PARTS:
        parts = record.get(key)
        if (
            isinstance(parts, list)
            and parts
            and all(
                isinstance(part, dict) and any(name in part for name in _START) for part in parts
            )
        ):
            outer = {name: value for name, value in record.items() if name != key}
            outer.pop("duration", None)
            for number, part in enumerate(parts, start=1):
                own = {"id": f"{outer['id']}-{number:05d}"} if "id" in outer else {}
                yield outer | part | own
            return
    yield record


def _annotated(record: dict[str, Any]) -> list[dict[str, Any]] | str:
    """Texts and spans of the annotation of a Label Studio task that counts; or why none does.

    Skipped ones do not count. Where people annotated a task several times, the one marked as ground
    truth counts; without such a mark, all must say the same.
    """
    annotations = record.get("annotations") or record.get("completions")
    if not isinstance(annotations, list):
        return []
    kept = [item for item in annotations
            if isinstance(item, dict) and item.get("was_cancelled") is not True]  # fmt: skip
    marked = [item for item in kept if item.get("ground_truth") is True]
    several = [regions for item in marked or kept if (regions := _regions(item.get("result")))]
    if any(regions != several[0] for regions in several):
        return (
            f"{len(several)} annotations of this task differ: mark one as ground truth in Label "
            "Studio, or export only one"
        )
    return several[0] if several else []


def _regions(results: Any) -> list[dict[str, Any]]:
    """Texts and spans of one annotation: results with the same id are one region."""
    regions: dict[str, dict[str, Any]] = {}
    for number, result in enumerate(results if isinstance(results, list) else ()):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        region = regions.setdefault(str(result.get("id", number)), {})
        region |= {key: value[key] for key in ("start", "end") if key in value}
        text, labels = value.get("text"), value.get("labels")
        if isinstance(text, list | str) and text:
            region["text"] = text if isinstance(text, str) else text[0] if len(text) == 1 else text
        if isinstance(labels, list) and len(labels) == 1:
            region["label"] = labels[0]
    return [region for region in regions.values() if "text" in region]
