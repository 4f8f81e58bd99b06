"""Columns of tables: recognized by name and by content, or both readings are shown."""

import random
from pathlib import Path

import pytest

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.importers.base import ColumnNames, Rows
from moonshine_tune.importers.tabular import read_table

PHRASES = ("turn left heading two", "go on", "descend to one zero", "say again all after",
           "contact the tower now", "hold short of runway")  # fmt: skip


def read(
    folder: Path, lines: list[str], name: str = "words.csv", *, want_text: bool = True, **named: str
) -> Rows:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    recordings = [folder / "wavs" / f"{stem}.wav" for stem in "012345"]
    return read_table(path, ColumnNames(**named), want_text=want_text, recordings=recordings)


def columns(table: Rows) -> str:
    return table.description.partition(": ")[2]


def rows_of(*makers: object, mark: str = "|") -> list[str]:
    """Six lines; a maker is a fixed cell, a list of cells to cycle through, or a format of n."""
    lines = []
    for n in range(6):
        cells = [
            maker[n % len(maker)] if isinstance(maker, list | tuple) else str(maker).format(n=n)
            for maker in makers
        ]
        lines.append(mark.join(cells))
    return lines


PATH = "wavs/{n}.wav"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            rows_of(PATH, ["speaker1", "speaker2"], PHRASES),
            "1, texts: column 3, speakers: column 2",
        ),
        (rows_of(PATH, PHRASES), "1, texts: column 2"),
        (rows_of(PHRASES, PATH, mark="\t"), "2, texts: column 1"),
        (rows_of(PATH, PHRASES, ["spk_1", "spk_2"]), "1, texts: column 2, speakers: column 3"),
        (rows_of("{n}", PHRASES, PHRASES), "1, texts: column 2"),
        (
            rows_of("D:\\x\\{n}.wav", ["reader1", "reader2"], "EN", PHRASES),
            "1, texts: column 4, speakers: column 2, languages: column 3",
        ),
        (rows_of(PATH, ["1.25", "2.5", "0.75"], PHRASES), "1, texts: column 3"),
        (rows_of("{n}", PATH, PHRASES), "2, texts: column 3"),
        (
            [f"{who}/{n}.wav;{who};{PHRASES[n]}" for n, who in enumerate(["anna", "ben"] * 3)],
            "1, texts: column 3, speakers: column 2",
        ),
        (
            rows_of(PATH, ["왼쪽으로", "오른쪽으로", "다시", "천천히", "빨리", "멈춰"]),
            "1, texts: column 2",
        ),
        (rows_of(PATH, ["eins", "zwei", "drei", "vier", "neun", "acht"]), "1, texts: column 2"),
    ],
)
def test_content_decides_in_a_table_without_a_heading(
    lines: list[str], expected: str, tmp_path: Path
) -> None:
    assert columns(read(tmp_path, lines)) == f"recordings: column {expected}"


@pytest.mark.parametrize(
    ("lines", "readings"),
    [
        # A speaker or a tag: an emotion, a room, a microphone, one voice.
        (
            rows_of(PATH, ["happy", "sad"], PHRASES),
            ["--audio-column 1 --text-column 3 --speaker-column 2: ", "--text-column 3: no column"],
        ),
        (rows_of(PATH, ["0", "1"], PHRASES), ["--text-column 3 --speaker-column 2: "]),
        (
            rows_of(PATH, ["0", "1"], ["2", "3"], PHRASES),
            ["--speaker-column 2", "--speaker-column 3"],
        ),
        (rows_of(PATH, "lena", PHRASES), ["--speaker-column 2: the speakers are 'lena'"]),
        # Written and normalized, as in LJSpeech.
        (
            rows_of(
                "{n}", [f"{text} 20" for text in PHRASES], [f"{text} twenty" for text in PHRASES]
            ),
            ["--audio-column 1 --text-column 2", "--audio-column 1 --text-column 3"],
        ),
        # Speakers without texts, commands, prompts, numbers.
        (rows_of(PATH, ["reader1", "reader2"]), ["--text-column 2", "--no-text"]),
        (rows_of(PATH, ["yes", "no"]), ["--text-column 2: the texts are 'yes', 'no'", "--no-text"]),
        (rows_of(PATH, "{n}"), ["--text-column 2", "--no-text"]),
        (rows_of(PATH, ["anna", "ben"], ["go on now", "stop it now"]), ["--text-column 3"]),
    ],
)
def test_two_readings_are_shown_with_their_options(
    lines: list[str], readings: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ProblemsError, match="no heading") as caught:
        read(tmp_path, lines)
    shown = "\n".join(caught.value.problems)
    assert all(reading in shown for reading in readings), shown


def test_named_columns_are_not_questioned(tmp_path: Path) -> None:
    table = read(tmp_path, rows_of(PATH, ["happy", "sad"], PHRASES), audio="1", text="3")
    assert columns(table) == "recordings: column 1, texts: column 3"
    assert table.rows[0].extra == {"2": "happy"}
    table = read(tmp_path, rows_of(PATH, ["yes", "no"]), audio="1", text="2")
    assert [row.values["text"] for row in table.rows] == ["yes", "no"] * 3
    table = read(tmp_path, rows_of(PATH, ["a", "b"], PHRASES), speaker="2")
    assert columns(table) == "recordings: column 1, texts: column 3, speakers: column 2"


@pytest.mark.parametrize(
    "lines",
    [
        rows_of(PATH, ["0.0", "1.5"], ["1.25", "2.0"], PHRASES),
        rows_of("wavs/0.wav", ["0.0", "1.5", "2.5", "3.5", "4.5", "5.5"], PHRASES),
        rows_of(PATH, ["00:00.000", "00:01.500"], ["00:01.250", "00:02"], PHRASES),
    ],
)
def test_times_without_a_heading_are_no_texts(lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="times of spans") as caught:
        read(tmp_path, lines)
    assert "add a first line" in str(caught.value.hint)


def test_label_tracks_are_no_tables(tmp_path: Path) -> None:
    lines = rows_of(["0.000000", "1.500000"], ["1.250000", "2.000000"], PHRASES, mark="\t")
    with pytest.raises(RequestError, match="audio"):
        read(tmp_path, lines, "take.txt")


def test_unnamed_times_of_a_repeated_recording_are_refused(tmp_path: Path) -> None:
    lines = ["file,t0,t1,text", *rows_of("wavs/0.wav", "{n}.0", "{n}.75", PHRASES, mark=",")]
    with pytest.raises(RequestError, match="'t0' and 't1' look like the times"):
        read(tmp_path, lines)
    lines[0] = "file,onset,offset,text"
    (first, *_) = read(tmp_path, lines).rows
    assert (first.values["start"], first.values["end"]) == (0.0, 0.75)


def test_a_recording_column_gives_way_to_the_one_that_names_recordings(tmp_path: Path) -> None:
    lines = ["audio,location,text", *rows_of("yes", PATH, PHRASES, mark=",")]
    assert "audio from 'location'" in read(tmp_path, lines).description


@pytest.mark.parametrize("name", ["utterance", "words", "prompt", "reference"])
def test_ids_and_counts_are_no_texts(name: str, tmp_path: Path) -> None:
    lines = [f"{name},file,orthography", *rows_of(["u-1", "u-2"], PATH, PHRASES, mark=",")]
    with pytest.raises(ProblemsError, match="more than one column") as caught:
        read(tmp_path, lines)
    assert "--text-column orthography" in str(caught.value.problems)
    assert read(tmp_path, lines, text="orthography").rows[0].values["text"] == PHRASES[0]


def test_names_of_transcript_files_are_no_texts(tmp_path: Path) -> None:
    lines = ["file,transcript", *rows_of(PATH, "texts/{n}.txt", mark=",")]
    with pytest.raises(RequestError, match="names of files"):
        read(tmp_path, lines)


def test_unknown_headings_are_refused_with_the_options_to_type(tmp_path: Path) -> None:
    lines = ["Datei,Wer,Der Satz", *rows_of(PATH, ["anna", "ben"], PHRASES, mark=",")]
    with pytest.raises(RequestError, match="no column looks like audio") as caught:
        read(tmp_path, lines)
    assert "--audio-column Datei --text-column 'Der Satz'" in str(caught.value.hint)
    table = read(tmp_path, lines, audio="Datei", text="3")
    assert table.rows[0].values["text"] == PHRASES[0]


def test_the_first_recording_is_never_taken_for_a_heading(tmp_path: Path) -> None:
    lines = rows_of("x{n}", PHRASES)
    lines[0] = lines[0].replace("x0", "gone")
    lines[1:] = [line.replace("x", "") for line in lines[1:]]
    assert len(read(tmp_path, lines).rows) == 6
    lines = ["user.wav|user|text", *rows_of(PATH, ["anna", "ben"], PHRASES)[1:]]
    with pytest.raises(ProblemsError, match="speaker or a tag"):
        read(tmp_path, lines)


def test_no_name_and_no_content_of_a_column_is_a_crash(tmp_path: Path) -> None:
    names = ["", "id", "audio", "audio_filepath", "text", "speaker", "duration", "start", "end",
             "offset", "language", "split", "session", "channel", "source_sha256", "source_id",
             "line", "extra", "file", "1", "2", "column 1", "None", "nan", "__class__", "a b",
             "text ", "TEXT", "é", "\u2028", "'", "{}", "%s"]  # fmt: skip
    cells = ["", "0", "1", "-1", "1.5", "1,250", "nan", "inf", "1e999", "00:61", "wavs/0.wav",
             "true", "null", "x", "two words", "\x00", "\ufeff", "9" * 5000, "=1+1",
             "#NAME?"]  # fmt: skip
    rng = random.Random(0)
    for _ in range(400):
        width = rng.randrange(1, 6)
        lines = [
            ";".join(rng.choices(names, k=width)),
            *(";".join(rng.choices(cells, k=width)) for _ in range(rng.randrange(6))),
        ]
        try:
            read(tmp_path, lines, want_text=rng.random() < 0.8)
        except RequestError as error:
            assert error.message


def test_two_columns_of_one_name_are_shown(tmp_path: Path) -> None:
    lines = ["file,Text,text", *rows_of(PATH, PHRASES, "wrong {n}", mark=",")]
    with pytest.raises(ProblemsError, match="columns of the same name") as caught:
        read(tmp_path, lines)
    assert "--text-column Text" in str(caught.value.problems)


def test_another_transcript_is_mentioned(tmp_path: Path) -> None:
    lines = ["file,transcription,raw_transcription", *rows_of(PATH, PHRASES, PHRASES, mark=",")]
    (remark,) = read(tmp_path, lines).remarks
    assert "--text-column raw_transcription" in remark


MOODS = ["happy", "sad mood"]
PEOPLE = ["anna", "ben"]


@pytest.mark.parametrize(
    ("heading", "cells", "flags"),
    [
        ("file,text,line", (MOODS, PHRASES), ["text-column text", "text-column line"]),
        ("file,transcript,x", (MOODS, PHRASES), ["text-column transcript", "text-column x"]),
        ("file,text,transcript", (PHRASES, PHRASES[::-1]), ["column text", "column transcript"]),
        ("file,sentence,reference", (PHRASES, PHRASES[::-1]), ["sentence", "reference"]),
        ("file,speaker,text", (PHRASES[3:], PEOPLE), ["text-column text", "text-column speaker"]),
        ("file,speaker,text,narrator", ("u{n}", PHRASES, PEOPLE), ["column speaker", "narrator"]),
        ("file,reader,text,voice", ("{n}@x.org", PHRASES, PEOPLE), ["column reader", "voice"]),
    ],
)
def test_a_name_alone_does_not_decide(
    heading: str, cells: tuple[object, ...], flags: list[str], tmp_path: Path
) -> None:
    sentences = [f"{phrase} and number {n} {n}" for n, phrase in enumerate(PHRASES)]
    makers = [sentences if cell == PHRASES[3:] else cell for cell in cells]
    with pytest.raises(ProblemsError, match="may be the") as caught:
        read(tmp_path, [heading, *rows_of("{n}.wav", *makers, mark=",")])
    assert all(flag in str(caught.value) for flag in flags)


@pytest.mark.parametrize(
    ("heading", "cells"),
    [
        ("file,text,mood", (PHRASES, MOODS)),
        ("file,text,transcription", (PHRASES, [phrase.upper() + "." for phrase in PHRASES])),
        ("file,text,normalized_text", (PHRASES, PHRASES[::-1])),
        ("file,text,speaker", (["yes", "go on"], PEOPLE)),
        ("file,text,speaker,client_id", (PHRASES, PEOPLE, "c{n}")),
    ],
)
def test_content_that_agrees_with_the_name_is_not_asked(
    heading: str, cells: tuple[object, ...], tmp_path: Path
) -> None:
    table = read(tmp_path, [heading, *rows_of("{n}.wav", *cells, mark=",")])
    assert "text from 'text'" in columns(table)


@pytest.mark.parametrize(
    "names",
    [
        "from,to",
        "start_sample,end_sample",
        "Start (s),End (s)",
        "partBegin,partEnd",
        "xmin,xmax",
    ],
)
def test_a_pair_of_times_is_a_span_whatever_it_is_called(names: str, tmp_path: Path) -> None:
    rows = rows_of("{n}.wav", "0.5", "1.{n}", PHRASES, mark=",")
    table = read(tmp_path, [f"file,{names},text", *rows])
    assert [(row.values["start"], row.values["end"]) for row in table.rows[:2]] == [
        (0.5, 1.0), (0.5, 1.1),
    ]  # fmt: skip


def test_a_start_beside_a_time_of_another_name_is_refused(tmp_path: Path) -> None:
    rows = rows_of("a.wav", "{n}.0", "0.75", PHRASES, mark=",")
    with pytest.raises(RequestError, match=r"'length'.*may be one"):
        read(tmp_path, ["file,start,length,text", *rows])
