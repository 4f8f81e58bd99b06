"""Lines with times beside recordings are cues, and their numbers are no words."""

from pathlib import Path

import pytest
from tests.corpus_folder import import_folder

from moonshine_tune.core.errors import ProblemsError, RequestError

_LONG = {"talk.wav": 10.0}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("0.500000\t2.000000\tgo left\n3.000000\t4.500000\tgo right\n", id="audacity"),
        pytest.param("0,500000\t2,000000\tgo left\n3,000000\t4,500000\tgo right\n", id="commas"),
        pytest.param(
            "0.5\t2.0\tgo left\n\\\t120.0\t4000.0\n3.0\t4.5\tgo right\n", id="frequency ranges"
        ),
        pytest.param("0.5\t2.0\tgo left\n2.0\t3.0\t\n3.0\t4.5\tgo right\n", id="empty label"),
        pytest.param("500 2000 go left\n3000 4500 go right\n", id="milliseconds"),
        pytest.param("start\tend\ttext\n500\t2000\tgo left\n3000\t4500\tgo right\n", id="heading"),
        pytest.param("8000 32000 go left\n48000 72000 go right\n", id="samples"),
        pytest.param("5000000 20000000 go left\n30000000 45000000 go right\n", id="HTK"),
        pytest.param("0.50 - 2.00: go left\n3.00 - 4.50: go right\n", id="ranges"),
        pytest.param("[0.5 - 2.0] go left\n[3.0 - 4.5] go right\n", id="brackets"),
        pytest.param("0.5;2.0;go left\n3.0;4.5;go right\n", id="semicolons"),
        pytest.param("[00:00.500 --> 00:02.000] go left\n[00:03.000 --> 00:04.500] go right\n",
                     id="Whisper's output"),
        pytest.param("00:00:00.5 - 00:00:02 go left\n00:00:03 - 00:00:04.5 go right\n", id="clock"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".txt", ".TXT", ".lab"])
def test_times_in_front_of_texts_are_spans(content: str, ending: str, tmp_path: Path) -> None:
    imported = import_folder(tmp_path, {f"talk{ending}": content}, _LONG)
    assert imported.spans == [(0.5, 2.0, "go left"), (3.0, 4.5, "go right")]
    assert {item.session for item in imported.utterances} == {"talk"}
    assert "times" in imported.remarks or "numbers" in imported.remarks


@pytest.mark.parametrize(
    ("name", "recording"),
    [("SA1.TXT", "SA1.WAV"), ("sa1.txt", "sa1.wav"), ("SA1.TXT", "SA1.WAV.wav")],
)
def test_sample_numbers_of_a_whole_recording_are_left_out(
    name: str, recording: str, tmp_path: Path
) -> None:
    files = {f"train/{name}": "0 46797 She had your suit.\n", "train/SA1.PHN": "0 3050 h#\n",
             "train/SA1.WRD": "3050 5000 she\n"}  # fmt: skip
    imported = import_folder(tmp_path, files, {f"train/{recording}": 46_797 / 16_000})
    assert imported.spans == [(None, None, "She had your suit.")]
    assert "samples" in imported.remarks


def test_lines_with_a_start_last_until_the_next(tmp_path: Path) -> None:
    content = "[00:01] go left\n[00:04] go right\nand on\n[0:06.5] stop\n"
    imported = import_folder(tmp_path, {"talk.txt": content}, _LONG)
    assert imported.spans == [
        (1.0, 4.0, "go left"), (4.0, 6.5, "go right and on"), (6.5, 10.0, "stop"),
    ]  # fmt: skip
    assert "lasts until the next" in imported.remarks


@pytest.mark.parametrize(
    ("content", "speakers"),
    [
        ("0:01\ngo left\n0:03\ngo right\n", [None, None]),
        ("Anna  0:01\ngo left\n\nBen  0:03\ngo right\n", ["Anna", "Ben"]),
        ("[ar:Anna]\n[00:01.00]go left\n[00:03.00]go right\n", [None, None]),
    ],
)
def test_texts_below_their_times_and_with_speakers(
    content: str, speakers: list[str | None], tmp_path: Path
) -> None:
    imported = import_folder(tmp_path, {"talk.txt": content}, _LONG)
    assert imported.spans == [(1.0, 3.0, "go left"), (3.0, 10.0, "go right")]
    assert [item.speaker for item in imported.utterances] == speakers


def test_spoken_digits_stay_words(tmp_path: Path) -> None:
    texts = {f"d{n}.txt": text for n, text in enumerate(("0 5 1 7", "7 3 2", "9 9 4 1", "2 8 0"))}
    imported = import_folder(tmp_path, texts, {f"d{n}.wav": 2.5 for n in range(4)})
    assert sorted(filter(None, imported.texts)) == ["0 5 1 7", "2 8 0", "7 3 2", "9 9 4 1"]
    assert "are words" in imported.remarks
    assert import_folder(
        tmp_path / "clock", {"a.txt": "12:30 is a fine time"}, {"a.wav": 2.0}
    ).texts == ["12:30 is a fine time"]


@pytest.mark.parametrize(
    "text", ["Meet me at 1:30\nor at 2:45\n", "Doors open at 12:30\nand close at 13:45\n"]
)
def test_times_of_day_at_the_end_of_lines_are_words(text: str, tmp_path: Path) -> None:
    assert import_folder(tmp_path, {"a.txt": text}, {"a.wav": 3.0}).texts == [
        " ".join(text.split())
    ]


def test_a_recording_of_silence_alone_is_counted(tmp_path: Path) -> None:
    files = {"a.txt": "[00:01] sil\n[00:02] spn\n", "b.txt": "0.5\t2.0\tsil\n", "c.txt": "go"}
    imported = import_folder(tmp_path, files, {"a.wav": 5.0, "b.wav": 5.0, "c.wav": 5.0})
    assert imported.texts == ["go"]
    assert imported.result.recordings.without_transcript == 2
    assert "labels of silence are no texts: sil, spn (2 files" in imported.remarks


def test_times_of_day_beyond_the_recording_are_doubtful(tmp_path: Path) -> None:
    files, recordings = {"a.txt": "12:30 the doors open\n13:45 they close\n"}, {"a.wav": 3.0}
    with pytest.raises(ProblemsError, match="if the times are words: --times none"):
        import_folder(tmp_path, files, recordings)
    assert import_folder(tmp_path, files, recordings, times="none").texts == [
        "12:30 the doors open 13:45 they close"
    ]


def test_a_few_texts_with_numbers_among_many_are_words(tmp_path: Path) -> None:
    files = {f"t{n}.txt": f"descend to level {n}" for n in range(20)} | {"x.txt": "2 5 zero"}
    imported = import_folder(tmp_path, files, {Path(name).stem + ".wav": 6.0 for name in files})
    assert "2 5 zero" in imported.texts
    assert "are words" in imported.remarks


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("talk.tsv", "0.5\t2.0\tgo left\n3.0\t4.5\tgo right\n"),
        ("talk.csv", "start,end,text\n0.5,2.0,go left\n3.0,4.5,go right\n"),
        ("sub/../talk.labels", "0.5\t2.0\tgo left\n3.0\t4.5\tgo right\n"),
    ],
)
def test_a_label_track_of_another_ending_is_no_table(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / "corpus" / "sub").mkdir(parents=True)
    assert import_folder(tmp_path, {name: content}, _LONG).texts == ["go left", "go right"]


def test_a_table_of_measurements_is_no_transcript(tmp_path: Path) -> None:
    files = {"x/talk.csv": "f0,energy\n120,0.5\n130,0.4\n"}
    with pytest.raises(ProblemsError, match="a table without start, end and text"):
        import_folder(tmp_path, files, {"x/talk.wav": 10.0})
    files |= {"x/talk.txt": "go left"}
    assert import_folder(tmp_path, files, {"x/talk.wav": 10.0}).texts == ["go left"]


@pytest.mark.parametrize("name", ["talk.srt", "talk.TextGrid", "talk.stm"])
def test_a_transcript_named_as_a_table_is_refused(name: str, tmp_path: Path) -> None:
    table = tmp_path / "corpus" / name
    with pytest.raises(RequestError, match="not a table") as caught:
        import_folder(tmp_path, {name: "x"}, _LONG, table=table)
    assert "data import" in str(caught.value.hint)


def test_numbers_with_two_readings_stop_and_show_both(tmp_path: Path) -> None:
    files, recordings = {"a.txt": "0 5 one seven\n"}, {"a.wav": 6.0}
    with pytest.raises(RequestError, match="may be words, or the span from 0 to 5 s") as caught:
        import_folder(tmp_path, files, recordings)
    assert caught.value.where is not None and caught.value.where.endswith("a.txt:1")
    assert "--times none" in str(caught.value.hint)
    assert "--times seconds" in str(caught.value.hint)
    assert import_folder(tmp_path, files, recordings, times="none").texts == ["0 5 one seven"]
    assert import_folder(tmp_path, files, recordings, times="seconds").spans == [
        (0.0, 5.0, "one seven")
    ]
    broken = {"a.txt": "0.0 5 one\nx\n5.0 5.2 two\n5.2 5.4 three\n5.4 5.6 four\n5.7 6.0 x y\n"}
    with pytest.raises(ProblemsError, match="line 2 is not start, end and text"):
        import_folder(tmp_path, broken, recordings, times="seconds")
    with pytest.raises(RequestError, match="no unit of times is called 'hours'"):
        import_folder(tmp_path, files, recordings, times="hours")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("0.5\t2.0\tfine\n3.0\t3.0\tclick\n", "a point at 3 s and not a span"),
        ("-0.5\t2.0\tearly\n3.0\t4.0\tfine\n", "no times within"),
        ("0.5\t2.0\tfine\n1.0\t4.0\tlate\n", "the cue before it ends at 2 s"),
        ("0.5\t2.0\tfine\n3.0\t44.0\tlate\n7.0\t8.0\tx\n", "no times within its 10.00 s"),
        ("signal x\nnfields 1\n#\n 0.25 121 pau\n 0.5 121 hh\n 0.6 121 ah\n", "no times within"),
        (
            "0 1000000 sil\n1000000 2000000 h\n2000000 3000000 eh\n3000000 4000000 l\n",
            "single words or phones",
        ),
        (
            "Anna\t\t00:00:01.000\t1.0\tgo left\nAnna\t\t00:00:03.000\t3.0\tgo right\n",
            "a table of times",
        ),
        ("0.5\t2.0\tone\n3.0\t4.0\ttwo\nnothing\n5.0\t6.0\tthree\n7.0\t8.0\tfour\n9.0\t9.5\tx\n",
         "line 3 is not start, end and text"),
    ],
)  # fmt: skip
def test_times_that_are_wrong_are_refused(content: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        import_folder(tmp_path, {"talk.lab": content}, _LONG)
    assert problem in "\n".join(caught.value.problems)


def test_one_certain_track_decides_for_the_others(tmp_path: Path) -> None:
    files = {"a.txt": "0\t3\tgo left\n", "b.txt": "0.25\t2.5\tgo right\n3.5\t4.5\tstop\n"}
    imported = import_folder(tmp_path, files, {"a.wav": 9.0, "b.wav": 5.0})
    assert imported.spans[0] == (0.0, 3.0, "go left")


def test_numbered_rows_of_times_are_no_words(tmp_path: Path) -> None:
    content = "1\t0.5\t2.0\tone two\n2\t3.0\t5.0\tthree\n"
    with pytest.raises(ProblemsError, match="a table of times in a form that is not known"):
        import_folder(tmp_path, {"talk.txt": content}, {"talk.wav": 6.0})


@pytest.mark.parametrize(
    ("names", "mark"),
    [
        (["1688-001"], " "),
        (["arctic_a0001", "arctic_a0002"], ".wav: "),
        (["001", "002", "003"], "\t"),
    ],
)
def test_the_name_of_a_recording_is_no_word_of_it(
    names: list[str], mark: str, tmp_path: Path
) -> None:
    files = {f"{name}.txt": f"{name}{mark}turn left {n}" for n, name in enumerate(names)}
    imported = import_folder(tmp_path, files, {f"{name}.wav": 4.0 for name in names})
    assert imported.texts == [f"turn left {n}" for n in range(len(names))]
    assert "the name of the recording in front of a text is no part of it" in imported.remarks


@pytest.mark.parametrize(
    "texts", [{"yes": "yes please", "no": "no thanks"}, {"7": "7 eight", "5": "five"}]
)
def test_a_spoken_word_that_is_also_the_name_stays(texts: dict[str, str], tmp_path: Path) -> None:
    files = {f"{name}.txt": text for name, text in texts.items()}
    imported = import_folder(tmp_path, files, {f"{name}.wav": 2.0 for name in texts})
    assert sorted(map(str, imported.texts)) == sorted(texts.values())


# --- transcripts of people who talk to each other


def test_comments_of_a_track_are_no_words(tmp_path: Path) -> None:
    content = "# call_1.sph\n# Transcribed by hand\n\n0.38 2.92 A: and you\n\n3.76 5.54 B: hello\n"
    imported = import_folder(tmp_path, {"call_1.txt": content}, {"call_1.wav": 9.0})
    assert imported.spans == [(0.38, 2.92, "A: and you"), (3.76, 5.54, "B: hello")]


def test_times_between_other_lines_are_no_transcript(tmp_path: Path) -> None:
    content = "A:\n0.38 2.92 and you\nB:\n3.76 5.54 hello\nA:\n6.0 8.0 hi\n"
    with pytest.raises(ProblemsError, match="a table of times"):
        import_folder(tmp_path, {"call.txt": content}, {"call.wav": 9.0})


@pytest.mark.parametrize(
    "content",
    [
        "Anna (00:03):\nHello all.\nBen (00:05):\nThanks.\nAnna (00:07):\nBye.\n",
        "[00:00:03.00] Anna\nHello all.\n\n[00:00:05.00] Ben\nThanks.\n\n[00:07] Anna\nBye.\n",
        "Anna  0:03\nHello all.\n\nBen  0:05\nThanks.\n\nAnna  0:07\nBye.\n",
    ],
)
def test_a_name_beside_a_time_is_the_speaker(content: str, tmp_path: Path) -> None:
    imported = import_folder(tmp_path, {"talk.txt": content}, {"talk.wav": 9.0})
    assert imported.spans == [(3.0, 5.0, "Hello all."), (5.0, 7.0, "Thanks."), (7.0, 9.0, "Bye.")]
    assert [item.speaker for item in imported.utterances] == ["Anna", "Ben", "Anna"]
    assert "names beside times are speakers" in imported.remarks


@pytest.mark.parametrize("first", ["Hello all, and", "Hello"])
def test_wrapped_lines_below_a_time_have_no_speaker(first: str, tmp_path: Path) -> None:
    content = f"[00:03] {first}\nwelcome.\n[00:05] Thanks a lot\nand bye.\n"
    imported = import_folder(tmp_path, {"talk.txt": content}, {"talk.wav": 9.0})
    assert imported.texts == [f"{first} welcome.", "Thanks a lot and bye."]


def test_names_in_front_of_all_lines_are_speakers(tmp_path: Path) -> None:
    content = "Interviewer: How are you?\nAnna: Fine.\nInterviewer: Good.\n"
    imported = import_folder(tmp_path, {"talk.txt": content}, {"talk.wav": 9.0})
    assert imported.texts == ["How are you? Fine. Good."]
    assert "speakers, and left out" in imported.remarks


def test_names_that_never_come_again_stay_and_are_named(tmp_path: Path) -> None:
    content = "Breakfast: two eggs\nLunch: a soup\n"
    imported = import_folder(tmp_path, {"talk.txt": content}, {"talk.wav": 9.0})
    assert imported.texts == ["Breakfast: two eggs Lunch: a soup"]
    assert "may be speakers" in imported.remarks
