"""Captions of all forms, and several transcripts of one recording."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.corpus_folder import import_folder

from moonshine_tune.core.errors import RequestError

_LONG = {"talk.wav": 10.0}
_ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,not spoken
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}go{\\i0}\\Nleft
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,go right
"""
_SRT = """1
00:00:01,000 --> 00:00:02,500
<font color="#ffffff">go</font> <i>left</i>

2
00:00:03,000 --> 00:00:04,000
{\\an8}go right
"""


def _whisper(**more: Any) -> dict[str, Any]:
    segments = [{"start": 1.0, "end": 2.5, "text": " go left", **more},
                {"start": 3.0, "end": 4.0, "text": " go right", **more}]  # fmt: skip
    return {"text": " go left go right", "segments": segments, "language": "en"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("talk.srt", _SRT),
        ("talk.SRT", _SRT),
        ("talk.txt", _SRT),
        ("talk.en.srt", _SRT),
        ("talk.wav.srt", _SRT),
        (
            "talk.sbv",
            "0:00:01.000,0:00:02.500\ngo\nleft\n\n0:00:03.000,0:00:04.000\ngo right\n",
        ),
        ("talk.ass", _ASS),
        ("talk.json", _whisper()),
        ("talk.json", _whisper(words=[{"word": "go", "start": 1.0, "end": 1.2}])),
        ("talk.json", _whisper()["segments"]),
        (
            "talk.wav.json",
            {
                "transcription": [
                    {"offsets": {"from": 1000, "to": 2500}, "text": " go left"},
                    {"offsets": {"from": 3000, "to": 4000}, "text": " go right"},
                ]
            },
        ),
        (
            "talk.en.json3",
            {
                "events": [
                    {"tStartMs": 0, "dDurationMs": 9000, "id": 1},
                    {"tStartMs": 1000, "dDurationMs": 1500,
                     "segs": [{"utf8": "go"}, {"utf8": " left", "tOffsetMs": 300}]},
                    {"tStartMs": 2500, "dDurationMs": 10, "segs": [{"utf8": "\n"}]},
                    {"tStartMs": 3000, "dDurationMs": 1000, "segs": [{"utf8": "go right"}]},
                ]
            },
        ),
        (
            "talk.json",
            {
                "text": "go left go right",
                "words": [{"text": "go", "start": 1000, "end": 1200}],
                "utterances": [
                    {"start": 1000, "end": 2500, "text": "go left"},
                    {"start": 3000, "end": 4000, "text": "go right"},
                ],
            },
        ),
        (
            "talk.json",
            [
                {"text": "go left", "start": 1.0, "duration": 1.5},
                {"text": "go right", "start": "3.0s", "duration": 1},
            ],
        ),
    ],
)  # fmt: skip
def test_captions_are_spans(name: str, content: Any, tmp_path: Path) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    imported = import_folder(tmp_path, {name: text}, _LONG)
    assert imported.spans == [(1.0, 2.5, "go left"), (3.0, 4.0, "go right")]


def test_speakers_of_recognizers_are_kept(tmp_path: Path) -> None:
    document = _whisper(speaker="SPEAKER_01")
    imported = import_folder(tmp_path, {"talk.json": json.dumps(document)}, _LONG)
    assert [item.speaker for item in imported.utterances] == ["SPEAKER_01"] * 2


@pytest.mark.parametrize(
    "document",
    [
        {"text": "go left"},
        {"transcript": "go left", "words": [{"word": "go", "start": 0.1, "end": 0.2}]},
        {"results": {"transcripts": [{"transcript": "go left"}], "items": [
            {"start_time": "0.1", "end_time": "0.2", "alternatives": [{"content": "go"}]}]}},
        {"results": [{"alternatives": [{"transcript": "go"}, {"transcript": "no"}]},
                     {"alternatives": [{"transcript": "left"}]}]},
    ],
)  # fmt: skip
def test_a_text_without_times_is_that_of_the_recording(document: Any, tmp_path: Path) -> None:
    imported = import_folder(tmp_path, {"talk.json": json.dumps(document)}, _LONG)
    assert imported.spans == [(None, None, "go left")]


# Of YouTube: each phrase is spoken once, and shown as the new line and above the next one.
_ROLLING = """WEBVTT
Kind: captions

00:00:00.000 --> 00:00:02.000 align:start position:0%
 
so<00:00:00.500><c> today</c><00:00:01.000><c> we</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
so today we
 

00:00:02.010 --> 00:00:04.000 align:start position:0%
so today we
will<00:00:02.500><c> look</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
will look
 

00:00:04.010 --> 00:00:06.000 align:start position:0%
will look
at<00:00:05.000><c> birds</c>

00:00:06.000 --> 00:00:06.010 align:start position:0%
at birds
 
"""  # noqa: W293


def test_rolling_captions_have_each_phrase_once(tmp_path: Path) -> None:
    imported = import_folder(tmp_path, {"talk.en.vtt": _ROLLING}, _LONG)
    assert imported.spans == [
        (0.0, 2.0, "so today we"), (2.01, 4.0, "will look"), (4.01, 6.0, "at birds"),
    ]  # fmt: skip
    assert "rolling captions" in imported.remarks


def test_rolling_captions_of_two_lines_and_in_json(tmp_path: Path) -> None:
    phrases = ["so today we", "will look at", "birds in the", "garden of my", "old house"]
    cues = list(zip(["", *phrases], phrases, strict=False))
    srt = "".join(
        f"{n}\n00:00:0{n},000 --> 00:00:0{n + 1},000\n{before}\n{after}\n\n"
        for n, (before, after) in enumerate(cues)
    )
    assert import_folder(tmp_path / "srt", {"talk.srt": srt}, _LONG).texts == phrases
    segments = [{"start": n, "end": n + 1, "text": " ".join(cue)} for n, cue in enumerate(cues)]
    document = json.dumps({"segments": segments})
    assert import_folder(tmp_path / "json", {"talk.json": document}, _LONG).texts == phrases


def test_what_people_repeat_stays(tmp_path: Path) -> None:
    texts = ["yes", "yes", "no no", "no", "go left", "go left", "left again", "go left"]
    srt = "".join(
        f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}\n\n" for n, text in enumerate(texts)
    )
    assert import_folder(tmp_path, {"talk.srt": srt}, _LONG).texts == texts


def test_transcripts_with_the_same_words_are_one(tmp_path: Path) -> None:
    """Whisper writes five files."""
    files = {
        "talk.txt": "Go left,\ngo right.\n", "talk.srt": _SRT, "talk.json": json.dumps(_whisper()),
        "talk.vtt": _SRT.replace(",", ".").replace("1\n", "WEBVTT\n\n1\n", 1),
        "talk.tsv": "start\tend\ttext\n1000\t2500\tgo left\n3000\t4000\tgo right\n",
    }  # fmt: skip
    imported = import_folder(tmp_path, files, _LONG)
    assert imported.spans == [(1.0, 2.5, "go left"), (3.0, 4.0, "go right")]
    assert "several transcripts with the same words" in imported.remarks


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (".en.srt", ".de.srt"), (".normalized.txt", ".original.txt"), (".txt", ".srt"),
    ],
)  # fmt: skip
def test_transcripts_that_differ_are_shown(first: str, second: str, tmp_path: Path) -> None:
    cue = "1\n00:00:01,000 --> 00:00:02,000\n{}\n"
    files = {
        f"talk{ending}": cue.format(text) if ending.endswith("srt") else text
        for ending, text in ((first, "two birds"), (second, "2 Vögel"))
    }
    with pytest.raises(RequestError, match="two transcripts that differ") as caught:
        import_folder(tmp_path, files, _LONG)
    assert "two birds" in caught.value.message and "2 Vögel" in caught.value.message
    assert f"--transcripts {first}" in str(caught.value.hint)
    assert f"--transcripts {second}" in str(caught.value.hint)
    assert import_folder(tmp_path, files, _LONG, transcripts=first).texts == ["two birds"]
    assert import_folder(tmp_path, files, _LONG, transcripts=second).texts == ["2 Vögel"]
    with pytest.raises(RequestError, match=r"no transcript ends with '\.fr\.srt'"):
        import_folder(tmp_path, files, _LONG, transcripts=".fr.srt")


def test_the_language_chooses_captions(tmp_path: Path) -> None:
    cue = "1\n00:00:01,000 --> 00:00:02,000\n{}\n"
    files = {"talk.en.srt": cue.format("birds"), "talk.de.srt": cue.format("Vögel")}
    assert import_folder(tmp_path, files, _LONG, language="de").texts == ["Vögel"]


def test_stm_and_ctm_of_many_recordings(tmp_path: Path) -> None:
    stm = (
        ";; a comment\ntalk 1 Ada 0.5 2.0 <o,f0,female> go left\n"
        "talk 1 inter_segment_gap 2.0 3.0 ignore_time_segment_in_scoring\n"
        "chat 1 Ben 3.0 4.0 <o,,> go right\n"
    )
    recordings = {"wav/talk.wav": 5.0, "wav/chat.wav": 5.0}
    imported = import_folder(tmp_path / "stm", {"stm/all.stm": stm}, recordings)
    assert imported.spans == [(0.5, 2.0, "go left"), (3.0, 4.0, "go right")]
    assert [item.speaker for item in imported.utterances] == ["Ada", "Ben"]
    ctm = "talk 1 0.50 0.30 go 0.9\ntalk 1 0.85 0.30 left\ntalk 1 3.00 0.40 stop\n"
    imported = import_folder(tmp_path / "ctm", {"a.ctm": ctm}, recordings)
    assert imported.spans == [(0.5, 1.15, "go left"), (3.0, 3.4, "stop")]
    assert "joined up to the next pause" in imported.remarks


def test_a_line_that_is_only_shown_is_no_cue(tmp_path: Path) -> None:
    cues = "WEBVTT\n\n00:00.000 --> 00:02.000\ngo on then\n\n"
    cues += (
        "00:02.000 --> 00:02.010\ngo on then\n\n00:02.010 --> 00:04.000\ngo on then\nturn left\n"
    )
    imported = import_folder(tmp_path, {"a.vtt": cues}, {"a.wav": 5.0})
    assert imported.spans == [(0.0, 2.0, "go on then"), (2.01, 4.0, "turn left")]


# --- identifiers, numbers and comments


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "talk.vtt",
            "WEBVTT\n\nf1a2-0/11-0\n00:00:01.000 --> 00:00:02.500\n<v Anna>call\n911</v>\n\n"
            "f1a2-0/11-1\n00:00:03.000 --> 00:00:04.000\n<v Ben>42</v>\n",
        ),
        (
            "talk.vtt",
            "WEBVTT - title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE a comment\n"
            "of two lines\n\n00:01.000 --> 00:02.500 align:start\ncall\n911\n\nNOTE\nnot spoken\n\n"
            "00:03.000 --> 00:04.000\n42\n",
        ),
        (
            "talk.srt",
            "1\n00:00:01,000 --> 00:00:02,500\ncall\n911\n2\n00:00:03,000 --> 00:00:04,000\n42\n",
        ),
        (
            "talk.srt",
            "00:00:01,000 --> 00:00:02,500\ncall\n911\n\n00:00:03,000 --> 00:00:04,000\n42",
        ),
        ("talk.sbv", "0:00:01.000,0:00:02.500\ncall\n911\n\n0:00:03.000,0:00:04.000\n42\n"),
    ],
)
def test_digits_are_words_and_identifiers_are_none(name: str, content: str, tmp_path: Path) -> None:
    imported = import_folder(tmp_path, {name: content}, _LONG)
    assert imported.spans == [(1.0, 2.5, "call 911"), (3.0, 4.0, "42")]


def test_a_cue_may_begin_as_a_comment_does(tmp_path: Path) -> None:
    content = "WEBVTT\n\n00:01.000 --> 00:02.000\nNOTE taking helps\n"
    assert import_folder(tmp_path, {"talk.vtt": content}, _LONG).texts == ["NOTE taking helps"]


@pytest.mark.parametrize("times", ['begin="3s" dur="1s"', 'begin="00:00:03:12" end="00:00:04:00"'])
def test_times_that_the_reader_does_not_know_are_one_plain_error(
    times: str, tmp_path: Path
) -> None:
    content = (
        '<?xml version="1.0"?><tt xmlns="http://www.w3.org/ns/ttml"><body><div>'
        f"<p {times}>go right</p></div></body></tt>"
    )
    with pytest.raises(RequestError, match="cannot be read as cues"):
        import_folder(tmp_path, {"talk.ttml": content}, _LONG)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (
            {"results": [
                {"type": "word", "start_time": 0.5, "alternatives": [{"content": "go"}]},
                {"type": "word", "start_time": 0.9, "alternatives": [{"content": "left"}]},
                {"type": "punctuation", "start_time": 1, "alternatives": [{"content": "."}]},
            ]},
            "go left.",
        ),
        (
            {"combinedRecognizedPhrases": [{"lexical": "go left", "display": "Go left."}],
             "recognizedPhrases": [{"nBest": [{"display": "Go left."}, {"display": "Goal."}]}]},
            "Go left.",
        ),
        ({"recognizedPhrases": [{"nBest": [{"display": "Go."}, {"display": "Goal."}]}]}, "Go."),
    ],
)  # fmt: skip
def test_marks_follow_their_words_and_the_first_alternative_counts(
    document: dict[str, Any], text: str, tmp_path: Path
) -> None:
    imported = import_folder(tmp_path, {"talk.json": json.dumps(document)}, _LONG)
    assert imported.texts == [text]
