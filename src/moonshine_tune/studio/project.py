"""A project folder: its settings, prompts and manifests, each an ordinary file.

Every change is on disk before it is answered. A clip that moves from one manifest to another is
first written to the new one, then removed from the old one: a process that is killed in between
leaves it in both, and the first of `ROWS` counts.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.bounded_files import utf8_text
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, read_manifest, scan_manifest, write_manifest
from moonshine_tune.corpus.transcript_form import clean_text
from moonshine_tune.runs.records import StudioRecord

RECORD_FILE = "studio.json"
ACCEPTED, UNLABELLED, DELETED = "accepted", "unlabelled", "deleted"
ROWS = (ACCEPTED, UNLABELLED, DELETED)
TAKE = "take-"
"""How the id of a recording of the studio begins."""

PROMPT = "prompt"
"""Key of a row: the id of the prompt that was read, whose text a person may have corrected."""

MAX_TEXT = 2_000
"""Characters of a prompt or a transcript: thirty seconds of fast speech have about 600."""

_MAX_PROMPTS = 100_000
_MAX_UNDO = 200
_OTHER_STUDIO = "use the page that is open, end that studio with Ctrl-C, or name another folder"

# Clip id → its new row in a manifest, or None where it leaves it.
Rows = Mapping[str, Utterance | None]
Changes = Mapping[str, Rows]


class ManifestFile:
    """The rows of one manifest by id, read again where another program has written it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # A request that reads while another one writes must not bring old rows back.
        self._lock = threading.RLock()
        self._rows: dict[str, Utterance] = {}
        self._seen: tuple[int, int, int] | None = None

    @property
    def rows(self) -> dict[str, Utterance]:
        """All rows in their order; not to be changed.

        Raises:
            ProblemsError: invalid lines, which a rewrite would lose.
        """
        with self._lock:
            now = self._stamp()
            if now != self._seen:
                self._rows = self._read() if now else {}
                self._seen = now
            return self._rows

    def change(self, rows: Rows) -> None:
        """Write the file with some rows added, replaced or removed."""
        with self._lock:
            changed = dict(self.rows)
            for identifier, row in rows.items():
                if row is None:
                    changed.pop(identifier, None)
                else:
                    changed[identifier] = row
            if changed != self._rows:
                write_manifest(self.path, changed.values())
                self._rows, self._seen = changed, self._stamp()

    def _read(self) -> dict[str, Utterance]:
        scan = scan_manifest(self.path, require_text=False, check_files=False)
        if scan.problems:
            raise ProblemsError(
                f"{self.path}: {len(scan.problems)} of {scan.num_lines} lines are invalid",
                [f"{self.path}:{item.line}: {item.message}" for item in scan.problems],
                hint=f"fix or remove these lines: moonshine-tune data check {quoted(self.path)}",
            )
        return {item.id: replace(item, line=0) for item in scan.utterances}

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class PromptToRead:
    """A sentence to read: its id, why it was proposed, and how often it is recorded."""

    id: str
    text: str
    reason: str
    takes: int


class Project:
    """A folder that is open in this process alone.

    Attributes:
        remarks: what was decided when it was opened, a sentence each.
    """

    def __init__(self, folder: Path, model: str | None) -> None:
        self.folder = folder.resolve()
        self.scratch = self.folder / ".studio"
        self.remarks: list[str] = []
        self.lock = threading.RLock()
        self._undo: list[tuple[str, Changes]] = []
        self.record = self._opened_record(model)
        self.manifests = {
            ACCEPTED: ManifestFile(self.folder / self.record.manifest),
            UNLABELLED: ManifestFile(self.folder / "unlabelled.jsonl"),
            DELETED: ManifestFile(self.folder / "deleted.jsonl"),
        }
        self._clean_up()

    # --- settings

    def update(self, **values: Any) -> None:
        """Change values of studio.json."""
        with self.lock:
            record = StudioRecord.model_validate(self.record.to_json() | values)
            record.write(self.folder / RECORD_FILE)
            self.record = record

    def _opened_record(self, model: str | None) -> StudioRecord:
        path = self.folder / RECORD_FILE
        if path.exists():
            record = StudioRecord.read(path, hint="remove the file: nothing else is lost with it")
            if Path(record.manifest).name != record.manifest:
                raise RequestError(
                    f"manifest {record.manifest!r} is not a file name", where=path,
                    hint="write the name of a manifest in this folder",
                )  # fmt: skip
        else:
            record = StudioRecord(manifest=self._own_manifest())
        return record if model is None else record.model_copy(update={"model": model})

    def _own_manifest(self) -> str:
        """The manifest that the folder has, where it has one; else a new one."""
        default = StudioRecord().manifest
        named = [
            path.name
            for path in sorted(self.folder.glob("*.jsonl"))
            if path.name not in ("unlabelled.jsonl", "deleted.jsonl") and _is_manifest(path)
        ]
        if default in named or not named:
            return default
        if len(named) == 1:
            self.remarks.append(f"accepted clips are added to {named[0]}")
            return named[0]
        joined = ", ".join(named)
        self.remarks.append(f"{joined} stay as they are: accepted clips are in {default}")
        return default

    # --- clips

    def find(self, identifier: str) -> tuple[str, Utterance] | None:
        """The manifest that a clip is in, and its row; None where there is no such clip."""
        for name in ROWS:
            row = self.manifests[name].rows.get(identifier)
            if row is not None:
                return name, row
        return None

    def change(self, description: str, changes: Changes, inverse: Changes | None = None) -> None:
        """Write changes of some manifests, which `undo` takes back.

        Args:
            description: what was done, for people.
            inverse: what undoes it; None restores the rows.
        """
        with self.lock:
            inverse = inverse or {
                name: {identifier: self.manifests[name].rows.get(identifier) for identifier in rows}
                for name, rows in changes.items()
            }
            self._apply(changes)
            self._undo = [*self._undo, (description, inverse)][-_MAX_UNDO:]

    def undo(self) -> str | None:
        """Take the last change back; what it was, or None where there is none."""
        with self.lock:
            if not self._undo:
                return None
            description, inverse = self._undo[-1]
            self._apply(inverse)
            self._undo.pop()
            return description

    def _apply(self, changes: Changes) -> None:
        """Manifests that get rows first: a clip may be in two of them, but never in none."""
        order = sorted(changes, key=lambda name: not any(changes[name].values()))
        for name in order:
            self.manifests[name].change(changes[name])

    # --- prompts

    def prompts(self) -> list[PromptToRead]:
        """All prompts: those without a recording first, then skipped ones, then recorded ones."""
        with self.lock:
            texts = self._prompt_texts()
            # By its text too: the command line adds recordings without prompts.
            takes = Counter(
                row.extra.get(PROMPT) or prompt_id(row.text or "")
                for row in self.manifests[ACCEPTED].rows.values()
            )
            prompts = [
                PromptToRead(key, text, self.record.reasons.get(key, ""), takes[key])
                for key, text in texts.items()
            ]
            skipped = set(self.record.skipped)
            return sorted(prompts, key=lambda item: (item.takes > 0, item.id in skipped))

    def add_prompts(self, texts: Iterable[str], reasons: Mapping[str, str] | None = None) -> int:
        """Add prompts that are not there yet; returns how many.

        Args:
            reasons: by text, why it was proposed.

        Raises:
            RequestError: one is too long, or there are too many.
        """
        with self.lock:
            known = self._prompt_texts()
            added: dict[str, str] = {}
            for text in texts:
                cleaned = prompt_text(text)
                if cleaned and prompt_id(cleaned) not in known:
                    added[prompt_id(cleaned)] = cleaned
            if len(known) + len(added) > _MAX_PROMPTS:
                raise RequestError(
                    f"{len(known) + len(added):,} prompts, the most is {_MAX_PROMPTS:,}",
                    hint="choose some: moonshine-tune data next FILE --count 200 --out chosen.txt",
                )
            if added:
                # Reasons first: one without a prompt does no harm.
                why = {prompt_id(prompt_text(k)): v for k, v in (reasons or {}).items()}
                new = {key: why[key] for key in added if why.get(key)}
                if new:
                    self.update(reasons=self.record.reasons | new)
                self._write_prompts([*known.values(), *added.values()])
            return len(added)

    def remove_prompt(self, identifier: str) -> None:
        """Remove a prompt; its recordings stay."""
        with self.lock:
            texts = self._prompt_texts()
            if texts.pop(identifier, None) is not None:
                self._write_prompts(texts.values())

    def skip_prompt(self, identifier: str) -> None:
        """Show a prompt after the others."""
        with self.lock:
            others = [item for item in self.record.skipped if item != identifier]
            self.update(skipped=[*others, identifier])

    def _prompt_texts(self) -> dict[str, str]:
        path = self.folder / "prompts.txt"
        if not path.exists():
            return {}
        lines = read_text_lines(path)
        texts = (clean_text(line) for line in lines)
        return {prompt_id(text): text for text in texts if text}

    def _write_prompts(self, texts: Iterable[str]) -> None:
        write_text_atomic(self.folder / "prompts.txt", "".join(f"{text}\n" for text in texts))

    # --- opening

    def _clean_up(self) -> None:
        """What a killed studio left: half-written files, clips in two manifests, lost takes."""
        self.scratch.mkdir(exist_ok=True)
        for path in self.scratch.iterdir():
            path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder / "recordings", self.folder / "originals"):
            remove_leftovers(folder)
        seen: set[str] = set()
        for name in ROWS:
            twice = [identifier for identifier in self.manifests[name].rows if identifier in seen]
            if twice:
                self.manifests[name].change(dict.fromkeys(twice))
            seen |= set(self.manifests[name].rows)
        self._recover_takes(seen)

    def _recover_takes(self, known: set[str]) -> None:
        """Recordings whose row was never written become clips to label: nothing spoken is lost."""
        paths = sorted((self.folder / "recordings").glob(f"{TAKE}*.flac"))
        used = {row.audio for name in ROWS for row in self.manifests[name].rows.values()}
        lost = [path for path in paths if path.stem not in known and path not in used]
        if lost:
            rows = {path.stem: Utterance(path.stem, path) for path in lost}
            self.manifests[UNLABELLED].change(rows)
            self.remarks.append(f"{len(lost)} recordings that were not answered are to be labeled")


@contextmanager
def open_project(folder: Path, model: str | None) -> Iterator[Project]:
    """Hold a project folder for this process; a folder that does not exist is made.

    Args:
        model: replaces that of the project until it is changed in the page.

    Raises:
        RequestError: another studio holds it, or a file in it is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(
            "a file, not a folder", where=folder, hint="name a folder for the project"
        )
    with one_writer(folder, hint=_OTHER_STUDIO):
        folder.mkdir(parents=True, exist_ok=True)
        yield Project(folder, model)


def prompt_id(text: str) -> str:
    """The id of a prompt: it follows from its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prompt_text(text: str) -> str:
    """A prompt on one line, as a manifest has it.

    Raises:
        RequestError: it is too long.
    """
    cleaned = clean_text(" ".join(text.split()))
    if len(cleaned) > MAX_TEXT:
        raise RequestError(
            f"a prompt of {len(cleaned):,} characters: {cleaned[:60]!r}, the most is {MAX_TEXT:,}",
            hint="write one sentence a line",
        )
    return cleaned


def read_text_lines(path: Path) -> Sequence[str]:
    """The lines of a prompt file.

    Raises:
        RequestError: it is not UTF-8 text.
    """
    return utf8_text(path.read_bytes(), path).splitlines()


def _is_manifest(path: Path) -> bool:
    try:
        read_manifest(path, require_text=False, check_files=False)
    except RequestError:
        return False
    return True
