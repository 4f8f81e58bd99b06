"""Corrections of transcripts: what a recognizer wrote, and what a person made of it.

A correction is a transcript only if it says what was spoken. People also reformat, add and
rephrase. `rewriting_in` tells the two apart, and all that is left out is listed with the reason.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.moments import seconds_since_1970
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import HYPOTHESIS
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.importers.base import CorrectionOptions, Row
from moonshine_tune.importers.columns import (
    column_profiles,
    named_column,
    simple_name,
)
from moonshine_tune.metrics.alignment import Token, align

# What dictation programs, labeling tools and toolkits call the two, compared as `simple_name`.
_HYPOTHESIS_NAMES = """
    hypothesis hyp hypo asr asrtext asroutput asrtranscript asrresult rawasr raw rawtext
    rawtranscript rawtranscription rawresult original originaltext originaltranscript
    originaltranscription prediction predicted predictedtext predtext pred recognized
    recognizedtext recognition recognised recognisedtext before beforetext machine machinetext
    machinetranscript automatic automatictranscript autotranscript modeloutput modeltext whisper
    whispertext draft drafttext uncorrected uncorrectedtext sttoutput stttext stt
"""
_CORRECTION_NAMES = """
    corrected correctedtext correctedtranscript correctedtranscription correction correctiontext
    edited editedtext editedtranscript edit final finaltext finaltranscript fixed fixedtext
    modified modifiedtext revised revisedtext revision verified verifiedtext verifiedtranscript
    validated validatedtext reviewed reviewedtext proofread after aftertext gold goldtext
    goldtranscript groundtruth groundtruthtext truth human humantext humantranscript manual
    manualtext manualtranscript usertext usercorrection useredit target targettext ref
    reference referencetext expected expectedtext
"""
_HYPOTHESES = frozenset(_HYPOTHESIS_NAMES.split())
_CORRECTIONS = frozenset(_CORRECTION_NAMES.split())
# A neutral name is the partner of a clear one: NeMo's `text` beside `pred_text`.
_NEUTRAL = ("text", "transcript", "transcription", "sentence", "value")
_MOMENTS = ("correctedat", "editedat", "modifiedat", "updatedat", "updated", "modified",
            "timestamp", "savedat", "createdat", "created", "datetime", "date", "time")  # fmt: skip
_LIST_ITEM = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)]|#{1,6})\s+\S", re.MULTILINE)


def correction_columns(
    path: Path,
    heading: Sequence[str],
    options: CorrectionOptions,
    text_column: str | None,
    records: Sequence[Mapping[str, Any]],
) -> tuple[str, str]:
    """The columns of the hypothesis and of the correction: as named, else by their names.

    Raises:
        RequestError: a named column does not exist, or no column looks like the two.
        ProblemsError: either column may be the correction; both readings are shown.
    """
    hypothesis = named_column(heading, options.hypothesis_column, path)
    correction = named_column(heading, text_column, path)
    if hypothesis and correction:
        if hypothesis == correction:
            raise RequestError(
                f"column {correction!r} cannot be both the hypothesis and the correction",
                where=path,
                hint=f"name two of its columns: {', '.join(heading)}",
            )
        return hypothesis, correction
    simple = {name: simple_name(name) for name in heading}
    hypotheses = [name for name in heading if simple[name] in _HYPOTHESES]
    corrections = [name for name in heading if simple[name] in _CORRECTIONS]
    neutral = [name for name in heading if simple[name] in _NEUTRAL]
    first = [hypothesis] if hypothesis else hypotheses
    second = [correction] if correction else corrections
    first = [name for name in first if name not in second]
    second = [name for name in second if name not in first]
    if len(first) == 1 and not second and len(neutral) == 1:
        second = neutral
    elif len(second) == 1 and not first and len(neutral) == 1:
        first = neutral
    if len(first) == 1 and len(second) == 1 and first != second:
        return first[0], second[0]
    raise _unclear(path, heading, records, first, second)


def _unclear(
    path: Path,
    heading: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    first: Sequence[str],
    second: Sequence[str],
) -> RequestError:
    """The error that shows which columns may be the two, with the flags to type."""
    profiles = column_profiles(heading, records)
    phrases = [name for name in heading if profiles[name].is_phrases]
    pairs = [(a, b) for a in first or phrases for b in second or phrases if a != b]
    if not pairs:
        return RequestError(
            "no two columns look like a hypothesis and its correction; the columns are: "
            + ", ".join(heading),
            where=path,
            hint="name them with --hypothesis-column NAME --text-column NAME",
        )
    return ProblemsError(
        f"{path}: more than one column may be the hypothesis or the correction",
        [
            f"--hypothesis-column {quoted(a)} --text-column {quoted(b)}: the model wrote "
            f"{profiles[a].shown()}, and a person made {profiles[b].shown()} of it"
            for a, b in pairs[:6]
        ],
        hint="run again with one of these lines",
    )


# --- what is left out


def judge_corrections(
    rows: Sequence[Row],
    paths: Sequence[Path | None],
    options: CorrectionOptions,
    language: str | None,
) -> tuple[list[Row], list[str]]:
    """Mark rows that are no transcripts: rewritten, in another script, empty, or superseded.

    Returns:
        all rows, and what was decided, a sentence each.

    Args:
        paths: the recording of each row; None where it is missing.

    Raises:
        ProblemsError: an empty correction, or two corrections of one recording without times, can
            be read in two ways.
    """
    judged = list(rows)
    for index in _superseded(judged, paths, options):
        judged[index] = replace(judged[index], left_out="superseded by a later correction")
    judged = _with_empty_decided(judged, paths, options)
    script = _main_script([_text(row) for row in judged if not row.left_out])
    open_rows = [row for row in judged if not (row.left_out or row.problem or row.is_silence)]
    pairs = [(_hypothesis(row), _text(row)) for row in open_rows]
    many_errors = has_many_errors(pairs, normalizer_for(None, language or "en"))
    for index, row in enumerate(judged):
        if row.left_out or row.problem or row.is_silence:
            continue
        normalizer = normalizer_for(None, row.values.get("language") or language or "en")
        reason = _why_not_a_transcript(row, script, normalizer, many_errors=many_errors)
        if reason:
            judged[index] = replace(row, left_out=reason)
    kept = [
        row for row, path in zip(judged, paths, strict=True)
        if path is not None and not row.left_out and not row.problem
    ]  # fmt: skip
    confirmed = sum(_hypothesis(row).split() == _text(row).split() for row in kept)
    remarks = [f"{confirmed} confirmed without a change, {len(kept) - confirmed} corrected"]
    if kept and confirmed == len(kept):
        remarks.append(
            "no correction differs from its hypothesis: all count as confirmed transcripts; if "
            "nobody has looked at them, they teach the model its own mistakes"
        )
    return judged, remarks


def _text(row: Row) -> str:
    return str(row.values.get("text") or "")


def _hypothesis(row: Row) -> str:
    return str(row.extra.get(HYPOTHESIS) or "")


def _superseded(
    rows: Sequence[Row], paths: Sequence[Path | None], options: CorrectionOptions
) -> set[int]:
    """Rows of a recording that has a later correction."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, (row, path) in enumerate(zip(rows, paths, strict=True)):
        if path is not None and row.problem is None:
            groups[path, row.values.get("start"), row.values.get("end")].append(index)
    result: set[int] = set()
    unclear: list[str] = []
    for members in groups.values():
        if len(members) < 2:
            continue
        moments = [_moment(rows[index]) for index in members]
        if options.duplicates:
            kept = members[0 if options.duplicates == "first" else -1]
        elif None not in moments and moments.count(max(m for m in moments if m is not None)) == 1:
            kept = max(zip(moments, members, strict=True), key=lambda pair: pair[0] or 0.0)[1]
        elif len({_text(rows[index]) for index in members}) == 1:
            kept = members[-1]
        else:
            unclear.append(
                f"{rows[members[0]].audio}: "
                + ", ".join(f"{rows[i].location} {_text(rows[i])[:40]!r}" for i in members[:3])
            )
            continue
        result |= set(members) - {kept}
    if unclear:
        raise ProblemsError(
            f"{len(unclear)} recordings have several corrections, and no time says which is the "
            "last",
            unclear,
            hint="say which counts: --duplicates last (the last row), or --duplicates first",
        )
    return result


def _moment(row: Row) -> float | None:
    fields = {simple_name(name): value for name, value in row.extra.items()}
    moments = (seconds_since_1970(fields.get(name)) for name in _MOMENTS)
    return next((moment for moment in moments if moment is not None), None)


def _with_empty_decided(
    rows: Sequence[Row], paths: Sequence[Path | None], options: CorrectionOptions
) -> list[Row]:
    """Rows whose correction is empty as the user reads them."""
    unclear: list[str] = []
    decided: list[Row] = []
    for row, path in zip(rows, paths, strict=True):
        if path is None or row.left_out or row.problem or _text(row).strip():
            decided.append(row)
            continue
        hypothesis = _hypothesis(row).strip()
        if options.empty == "unchanged" and hypothesis:
            row = replace(row, values=row.values | {"text": hypothesis})
        elif options.empty == "skip":
            row = replace(row, left_out="without a correction")
        elif options.empty in ("silence", "unchanged") or not hypothesis:
            row = replace(row, values=row.values | {"text": ""}, is_silence=True)
        else:
            unclear.append(f"{row.location}: {row.audio}: the model wrote {hypothesis[:60]!r}")
        decided.append(row)
    if unclear:
        raise ProblemsError(
            f"{len(unclear)} corrections are empty",
            unclear,
            hint="say what that means: --empty-correction silence (nobody spoke), unchanged (the "
            "hypothesis was right), or skip (nobody looked at it)",
        )
    return decided


def _why_not_a_transcript(
    row: Row, script: str | None, normalizer: Normalizer, *, many_errors: bool
) -> str | None:
    """Why a correction does not say what was spoken; None if it does."""
    text, hypothesis = _text(row), _hypothesis(row)
    own, before = _script_of(text), _script_of(hypothesis)
    if own and before and own != before:
        # Where most corrections are in this script, it is the hypothesis that is in a wrong one.
        return None if own == script else f"in another script: {own}, not {before}"
    reason = rewriting_in(hypothesis, text, normalizer, many_errors=many_errors)
    return f"rewritten: {reason}" if reason else None


def _main_script(texts: Sequence[str]) -> str | None:
    """The script of more than half of the texts."""
    scripts = Counter(filter(None, map(_script_of, texts)))
    name, count = scripts.most_common(1)[0] if scripts else (None, 0)
    return name if 2 * count > scripts.total() and scripts.total() > 1 else None


def _script_of(text: str) -> str | None:
    """The script of most letters, such as `latin`; Chinese, Japanese and Korean count as one."""
    names = Counter(
        unicodedata.name(character, "?").partition(" ")[0].lower()
        for character in unicodedata.normalize("NFKC", text)
        if character.isalpha()
    )
    if not names:
        return None
    name = names.most_common(1)[0][0]
    return "east asian" if name in ("cjk", "hiragana", "katakana", "hangul") else name


# --- the rule


# A recognizer drops or makes up words here and there, people add and remove phrases. Four words
# without a counterpart are a phrase. Measured in docs/decisions/0057.
_PHRASE = 4
# Share of letters in order, below which two stretches do not sound alike. Of unrelated sentences
# nine in ten have 0.34 or less; of what a recognizer confuses in read speech, 0.38 or more.
_ALIKE = 0.4
# A word of so many letters is equal by chance.
_SHORT_WORD = 3
# A moved phrase has so many words. A recognizer does not move any, but may repeat a short one.
_MOVED = 3
# Of a voice that the recognizer fails on, whole sentences come out as others of the same length. In
# the median changed row, this share of the words is then wrong, and such rows are no exception.
_MANY_ERRORS = 1 / 3
_FEW_ROWS = 5


def rewriting_in(
    hypothesis: str, correction: str, normalizer: Normalizer, *, many_errors: bool = False
) -> str | None:
    """What a correction does beyond the recognizer's errors, in some words; None if nothing.

    A recognizer replaces speech with what sounds like it: a stretch and its correction have most
    letters in common and about as many. It drops single words, and moves none. Case, punctuation
    and the spelling of numbers do not count.

    Args:
        many_errors: whether the recognizer often writes other words of the same length.
    """
    if len(_LIST_ITEM.findall(correction)) > 1 >= len(_LIST_ITEM.findall(hypothesis)):
        return "made a list of it"
    tokens = align(correction, hypothesis, normalizer)
    stretches = _changed_stretches(tokens)
    if moved := _moved_phrase(stretches):
        return f"moves {moved!r}"
    unlike = [stretch for stretch in stretches if not _are_alike(*stretch)]
    reasons = (_reason_of(removed, added, many_errors=many_errors) for removed, added in unlike)
    if reason := next(filter(None, reasons), None):
        return reason
    count = sum(len(added) for _, added in unlike)
    words = sum(bool(token.reference) for token in tokens)
    if count >= _PHRASE and 2 * count > words and not many_errors:
        return f"has {count} other words"
    return None


def has_many_errors(pairs: Sequence[tuple[str, str]], normalizer: Normalizer) -> bool:
    """Whether the recognizer fails on this voice: most corrections change many words.

    Args:
        pairs: hypothesis and correction of each row.
    """
    # Here, as in `metrics/alignment.py`: an import without a log of corrections does not need it.
    import jiwer

    rates = []
    for hypothesis, correction in pairs:
        before, after = normalizer(hypothesis), normalizer(correction)
        if before != after and after:
            rates.append(jiwer.wer(after, before))
    return len(rates) >= _FEW_ROWS and median(rates) >= _MANY_ERRORS


_Stretch = tuple[list[str], list[str]]


def _changed_stretches(tokens: Sequence[Token]) -> list[_Stretch]:
    """Words that were removed and added in each stretch of changes.

    A single short word between two changes is equal by chance, and belongs to the stretch.
    """
    stretches: list[_Stretch] = []
    gap: list[str] = []
    for token in tokens:
        if token.kind == "same":
            gap.append(token.reference)
            continue
        if not stretches or len(gap) > 1 or len("".join(gap)) > _SHORT_WORD:
            stretches.append(([], []))
            gap = []
        removed, added = stretches[-1]
        removed += [*gap, *filter(None, [token.hypothesis])]
        added += [*gap, *filter(None, [token.reference])]
        gap = []
    return stretches


def _reason_of(removed: list[str], added: list[str], *, many_errors: bool) -> str | None:
    """Why a stretch that does not sound alike is more than a recognition error."""
    if len(added) - len(removed) >= _PHRASE:
        return f"adds {' '.join(added)!r}"
    if len(removed) - len(added) >= _PHRASE:
        # A recognizer that repeats itself is in error: nobody spoke that.
        is_loop = 2 * len(set(removed)) <= len(removed)
        return None if is_loop else f"removes {' '.join(removed)!r}"
    if min(len(removed), len(added)) >= _PHRASE and not many_errors:
        return f"says {' '.join(added)!r} for {' '.join(removed)!r}"
    return None


def _are_alike(removed: Sequence[str], added: Sequence[str]) -> bool:
    """Whether enough letters of the longer stretch are in the other, in the same order."""
    import jiwer

    first, second = "".join(removed), "".join(added)
    if not first or not second:
        return False
    hits = jiwer.process_characters(first, second).hits
    return bool(hits >= _ALIKE * max(len(first), len(second)))


def _moved_phrase(stretches: Sequence[_Stretch]) -> str:
    """A phrase that is removed in one stretch and added in another; empty if there is none."""
    phrases: dict[tuple[str, ...], int] = {}
    for index, (removed, _) in enumerate(stretches):
        for phrase in _phrases(removed):
            phrases.setdefault(phrase, index)
    for index, (_, added) in enumerate(stretches):
        for phrase in _phrases(added):
            if phrases.get(phrase, index) != index:
                return " ".join(phrase)
    return ""


def _phrases(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + _MOVED]) for start in range(len(words) - _MOVED + 1)]
