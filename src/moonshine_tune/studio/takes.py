"""Recordings of prompts: judged, and kept on disk before the answer."""

import os
import re
import secrets
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import HYPOTHESIS, Utterance
from moonshine_tune.studio.labeling import CONFIDENCE, WORDS, NotFoundError, clip_json
from moonshine_tune.studio.model_worker import ModelWorker
from moonshine_tune.studio.project import (
    ACCEPTED,
    DELETED,
    PROMPT,
    TAKE,
    Changes,
    Project,
    prompt_id,
)

EVIDENCE = "evidence"
"""Key of a row: what the model made of the prompt, which says what is usual for the next ones."""

_TAKE_ID = re.compile(r"[0-9a-zA-Z-]{8,64}")
# The rule compares a take with those before it; more of them change nothing.
_MAX_EARLIER = 200


class Takes:
    """Judges recordings in the worker, and writes those that are accepted."""

    def __init__(self, project: Project, worker: ModelWorker) -> None:
        self._project, self._worker = project, worker

    def add(self, wav: Path, prompt: str, take: str | None, *, keep: bool) -> dict[str, Any]:
        """Judge a recording, and keep it where nothing speaks against it; the answer of the page.

        Args:
            wav: the file that was sent, in the scratch folder; it is moved or left there.
            prompt: id of the prompt.
            take: name of the recording; one that was accepted is answered again.
            keep: keep it where a person may overrule what was found.

        Raises:
            RequestError: no such prompt, or a wrong name.
            MachineError: the worker died, or the disk is full.
        """
        identifier = self._identifier(take)
        known = self._project.find(identifier)
        if known is not None and known[0] != DELETED:
            return _answer("accepted", clip=clip_json(known[1], known[0]))
        text = self._prompt_text(prompt)
        flac = self._project.scratch / f"{identifier}.flac"
        judged = self._worker.ask(
            "judge",
            path=str(wav),
            prompt=text,
            earlier=self._earlier(),
            model=self._project.record.model,
            out=str(flac),
        )
        findings = judged["findings"]
        is_accepted = not findings or (keep and all(item["can_keep"] for item in findings))
        answer = _answer("accepted" if is_accepted else "refused", judged)
        if is_accepted:
            row = self._row(identifier, text, judged)
            self._write(row, flac, wav)
            answer["clip"] = clip_json(row, ACCEPTED)
        else:
            flac.unlink(missing_ok=True)
        return answer

    def _write(self, row: Utterance, flac: Path, wav: Path) -> None:
        """The audio, then its row: at no time is there a row without its file."""
        project = self._project
        with project.lock:
            if project.record.keep_original:
                _move(wav, project.folder / "originals" / f"{row.id}.wav")
            _move(flac, row.audio)
            # One that was taken back may be sent again.
            changes: Changes = {ACCEPTED: {row.id: row}, DELETED: {row.id: None}}
            project.change("recorded", changes, {DELETED: {row.id: row}, ACCEPTED: {row.id: None}})

    def _row(self, identifier: str, text: str, judged: dict[str, Any]) -> Utterance:
        record, transcript = self._project.record, judged["transcript"]
        extra: dict[str, Any] = {PROMPT: prompt_id(text)}
        if transcript is not None:
            extra |= {
                HYPOTHESIS: transcript["text"],
                CONFIDENCE: judged[CONFIDENCE],
                WORDS: transcript["words"],
            }
        if evidence := judged["evidence"]:
            names = ("confidence", "reference_loss", "distance")
            extra[EVIDENCE] = {"model": record.model} | {name: evidence[name] for name in names}
        return Utterance(
            identifier,
            self._project.folder / "recordings" / f"{identifier}.flac",
            text,
            speaker=record.speaker or None,
            session=record.session or None,
            duration=round(judged["seconds"], 3),
            extra=extra,
        )

    def _earlier(self) -> list[dict[str, Any]]:
        """What the same model made of the recordings before."""
        rows = self._project.manifests[ACCEPTED].rows.values()
        return [
            {"id": row.id, "reference": row.text or "", "text": row.extra.get(HYPOTHESIS, "")}
            | {name: value for name, value in evidence.items() if name != "model"}
            for row in rows
            if isinstance(evidence := row.extra.get(EVIDENCE), dict)
            and evidence.get("model") == self._project.record.model
        ][-_MAX_EARLIER:]

    def _identifier(self, take: str | None) -> str:
        name = secrets.token_hex(8) if take is None else take
        if not _TAKE_ID.fullmatch(name):
            raise RequestError(
                f"take {name[:80]!r} is not a name of 8 to 64 letters, digits and -",
                hint="leave it out",
            )
        return TAKE + name

    def _prompt_text(self, prompt: str) -> str:
        for item in self._project.prompts():
            if item.id == prompt:
                return item.text
        raise NotFoundError(f"no prompt {prompt[:80]!r}", hint="load the page again")


def _answer(
    verdict: str, judged: dict[str, Any] | None = None, *, clip: dict[str, Any] | None = None
) -> dict[str, Any]:
    if judged is None:
        judged = {"findings": [], "remark": ""}
    transcript = judged.get("transcript")
    words = transcript["words"] if transcript else []
    return {
        "verdict": verdict,
        "findings": judged["findings"],
        "transcript": transcript["text"] if transcript else (clip or {}).get("transcript"),
        "confidence": judged.get(CONFIDENCE, (clip or {}).get("confidence")),
        "words": [
            {
                "word": word["text"],
                "start_s": round(word["start"], 3),
                "end_s": round(word["end"], 3),
                "confidence": round(word[CONFIDENCE], 3),
            }
            for word in words
        ],
        "remark": judged["remark"],
        "clip": clip,
    }


def _move(source: Path, target: Path) -> None:
    """Rename a complete file, and let the disk have both it and its name."""
    target.parent.mkdir(exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
