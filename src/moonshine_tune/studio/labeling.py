"""The clips of a project: as the page shows them, and what a person does with them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import HYPOTHESIS, Utterance
from moonshine_tune.corpus.transcript_form import clean_text
from moonshine_tune.runs.records import StudioRecord
from moonshine_tune.studio.project import (
    ACCEPTED,
    DELETED,
    MAX_TEXT,
    ROWS,
    UNLABELLED,
    Changes,
    Project,
)

CONFIDENCE, WORDS, KEYSTROKES = "confidence", "words", "keystrokes"
_MAX_NAME = 80
_MAX_KEYSTROKES = 1_000_000
_STATES = (UNLABELLED, ACCEPTED)


class NotFoundError(RequestError):
    """No such clip, prompt, run or job."""


class Labeling:
    """What a person does with clips; every change can be taken back."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def listed(self, state: str, offset: int, limit: int) -> dict[str, Any]:
        """A part of the clips: those to label the least sure first, accepted ones newest first.

        Raises:
            RequestError: no such state.
        """
        if state not in _STATES:
            raise RequestError(f"state {state!r}", hint=f"one of: {', '.join(_STATES)}")
        rows = list(self._project.manifests[state].rows.values())
        if state == UNLABELLED:
            rows.sort(key=lambda row: _confidence(row) or 0.0)
        else:
            rows.reverse()
        shown = rows[offset : offset + limit]
        return {"clips": [clip_json(row, state) for row in shown], "total": len(rows)}

    def label(self, identifier: str, text: str, *, accept: bool, keystrokes: int | None) -> Any:
        """Set the text of a clip, and with `accept` move it to the accepted ones; the clip.

        Raises:
            RequestError: no text, a text that is too long, or no such clip.
        """
        cleaned = _checked_text(text)
        with self._project.lock:
            state, row = self.find(identifier)
            changed = replace(row, text=cleaned)
            if keystrokes is not None:
                count = min(max(keystrokes, 0), _MAX_KEYSTROKES)
                changed = replace(changed, extra=changed.extra | {KEYSTROKES: count})
            if accept and state == UNLABELLED:
                self._project.change("accepted", _move(changed, UNLABELLED, ACCEPTED))
                state = ACCEPTED
            else:
                self._project.change("changed the text", {state: {identifier: changed}})
            return clip_json(changed, state)

    def set_many(
        self, identifiers: Sequence[str], speaker: str | None, session: str | None
    ) -> list[Any]:
        """Set the speaker and the session of some clips; None leaves them as they are.

        Raises:
            RequestError: a name that is too long, or no such clip.
        """
        names = {
            name: short_name(value) or None
            for name, value in (("speaker", speaker), ("session", session))
            if value is not None
        }
        with self._project.lock:
            changes: dict[str, dict[str, Utterance | None]] = {}
            clips = []
            for identifier in dict.fromkeys(identifiers):
                state, row = self.find(identifier)
                changed = replace(
                    row,
                    speaker=names.get("speaker", row.speaker),
                    session=names.get("session", row.session),
                )
                changes.setdefault(state, {})[identifier] = changed
                clips.append(clip_json(changed, state))
            if changes and names:
                named = " and ".join(names)
                self._project.change(f"set the {named} of {len(clips)} clips", changes)
            return clips

    def delete(self, identifier: str) -> None:
        """Move a clip to `deleted.jsonl`; its audio stays.

        Raises:
            NotFoundError: no such clip.
        """
        with self._project.lock:
            state, row = self.find(identifier)
            self._project.change("deleted", _move(row, state, DELETED))

    def find(self, identifier: str) -> tuple[str, Utterance]:
        """The state of a clip that is not deleted, and its row.

        Raises:
            NotFoundError: no such clip.
        """
        result = self._project.find(identifier)
        if result is None or result[0] == DELETED:
            raise NotFoundError(f"no clip {identifier[:80]!r}", hint="load the page again")
        return result

    def add_transcribed(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines of `transcribe --words` as clips to label."""
        with self._project.lock:
            used = {key for name in ROWS for key in self._project.manifests[name].rows}
            changes: dict[str, Utterance | None] = {}
            for record in rows:
                row = _transcribed(record, self._project.record)
                # A recording of the studio that was never answered is there without a transcript.
                before = self._project.manifests[UNLABELLED].rows.get(row.audio.stem)
                if before is not None and HYPOTHESIS not in before.extra:
                    changes[before.id] = replace(row, id=before.id, start=None, end=None)
                    continue
                identifier, number = row.id, 2
                while identifier in used:
                    identifier, number = f"{row.id}-{number}", number + 1
                used.add(identifier)
                changes[identifier] = replace(row, id=identifier)
            if changes:
                self._project.manifests[UNLABELLED].change(changes)

    def effort(self) -> dict[str, Any]:
        """Keystrokes and clicks of the labeled clips against typing every text and Enter."""
        counted = [
            (row.extra[KEYSTROKES], len(row.text or "") + 1)
            for row in self._project.manifests[ACCEPTED].rows.values()
            if isinstance(row.extra.get(KEYSTROKES), int)
        ]
        keystrokes, typing = (sum(column) for column in zip(*counted, strict=True)) \
            if counted else (0, 0)  # fmt: skip
        saved = 100.0 * (1.0 - keystrokes / typing) if typing else 0.0
        return {
            "clips": len(counted),
            "keystrokes": keystrokes,
            "typing_everything": typing,
            "saved_percent": round(saved, 1),
        }


def clip_json(row: Utterance, state: str) -> dict[str, Any]:
    """A clip as the page shows it; times of words count from its start."""
    start = row.start or 0.0
    words = row.extra.get(WORDS)
    return {
        "id": row.id,
        "name": row.audio.name,
        "text": row.text or "",
        "transcript": _text_or_none(row.extra.get(HYPOTHESIS)),
        "confidence": _confidence(row),
        "words": [
            {
                "word": str(word.get("text", "")),
                "start_s": round(max(_number(word.get("start")) - start, 0.0), 3),
                "end_s": round(max(_number(word.get("end")) - start, 0.0), 3),
                "confidence": _number(word.get(CONFIDENCE)),
            }
            for word in (words if isinstance(words, list) else [])
            if isinstance(word, dict)
        ],
        "duration_s": row.known_seconds,
        "speaker": row.speaker or "",
        "session": row.session or "",
        "audio": f"/api/clips/{quote(row.id, safe='')}/audio",
        "state": state,
        "findings": [],
    }


def short_name(name: str) -> str:
    """The name of a speaker or a session.

    Raises:
        RequestError: it is too long.
    """
    cleaned = clean_text(re.sub(r"[\x00-\x1f\x7f]", " ", name))
    if len(cleaned) > _MAX_NAME:
        raise RequestError(
            f"a name of {len(cleaned)} characters, the most is {_MAX_NAME}",
            hint="choose a shorter name",
        )
    return cleaned


def _move(row: Utterance, source: str, target: str) -> Changes:
    return {target: {row.id: row}, source: {row.id: None}}


def _checked_text(text: str) -> str:
    cleaned = clean_text(re.sub(r"[\x00-\x1f\x7f]", " ", text))
    if not cleaned:
        raise RequestError(
            "the text is empty", hint="write what is spoken, or delete the clip: nothing is spoken"
        )
    if len(cleaned) > MAX_TEXT:
        raise RequestError(
            f"a text of {len(cleaned):,} characters, the most is {MAX_TEXT:,}",
            hint="cut the recording: moonshine-tune data import FILE --no-text --cut --out F.jsonl",
        )
    return cleaned


def _transcribed(record: Mapping[str, Any], settings: StudioRecord) -> Utterance:
    """A clip to label from a line of `transcribe --words`."""
    text = clean_text(str(record.get("text", "")))
    extra = {
        HYPOTHESIS: text,
        CONFIDENCE: record.get(CONFIDENCE),
        WORDS: record.get(WORDS) or [],
    }
    start, end = _number(record.get("start")), _number(record.get("end"))
    return Utterance(
        id=str(record["id"]),
        audio=Path(str(record["audio"])),
        text=text,
        speaker=settings.speaker or None,
        session=settings.session or None,
        duration=round(end - start, 3),
        start=start,
        end=end,
        extra={key: value for key, value in extra.items() if value not in (None, "")},
    )


def _confidence(row: Utterance) -> float | None:
    value = row.extra.get(CONFIDENCE)
    return float(value) if isinstance(value, int | float) else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
