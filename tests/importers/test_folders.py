"""Folders as people have them: clutter, sub-folders, and recordings without transcripts."""

import json
import random
import subprocess
from pathlib import Path

import pytest
from tests.corpus_folder import import_folder, make_folder

from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.importers.base import ImportRequest, is_clutter
from moonshine_tune.importers.run import ImportResult, import_data

_TWIN = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02\xb0\xc7com.apple.quarantine"


@pytest.mark.parametrize(
    "name",
    ["._a.wav", ".DS_Store", "__MACOSX", "Thumbs.db", "thumbs.db", "~$words.xlsx", "words.csv.tmp",
     "@eaDir", ".ipynb_checkpoints", "$RECYCLE.BIN", "System Volume Information", "desktop.ini",
     "a.wav.part", "words.csv~", ".words.csv.swp"],
)  # fmt: skip
def test_clutter_is_known(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["a.wav", "words.csv", "@anna", "a~b.wav", "tmp", "_a.wav"])
def test_names_of_corpora_are_no_clutter(name: str) -> None:
    assert not is_clutter(name)


# A layout → its files, for two recordings.
_LAYOUTS: dict[str, dict[str, str]] = {
    "table": {"words.csv": "file,text\na.wav,one\nb.wav,two\n"},
    "json": {"words.json": '{"a.wav": "one", "b.wav": "two"}'},
    "beside": {"a.txt": "one", "b.txt": "two"},
    "LibriSpeech": {"x.trans.txt": "a one\nb two\n"},
    "cues": {"a.srt": "1\n00:00:00,000 --> 00:00:01,000\none\n", "b.txt": "two"},
    "lhotse": {
        "cuts.jsonl": "".join(
            json.dumps(
                {
                    "id": name, "start": 0, "duration": 1.0, "type": "MonoCut",
                    "recording": {"id": name, "duration": 1.0,
                                  "sources": [{"type": "file", "source": f"{name}.wav"}]},
                    "supervisions": [{"id": name, "start": 0, "duration": 1.0, "text": text}],
                }
            ) + "\n"
            for name, text in (("a", "one"), ("b", "two"))
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_clutter_changes_no_import(layout: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = dict(_LAYOUTS[layout])
    twins = {f"._{name}": _TWIN for name in (*files, "a.wav", "b.wav")}
    archive = {f"__MACOSX/{name}": content for name, content in twins.items()}
    system = {".DS_Store": _TWIN, "Thumbs.db": _TWIN, "~$words.csv": _TWIN, "words.csv.tmp": "x",
              ".ipynb_checkpoints/words-checkpoint.csv": "x", "@eaDir/a.txt": "x",
              "@eaDir/words.jsonl": "x"}  # fmt: skip
    recordings = {"a.wav": 1.0, "b.wav": 1.0, "@eaDir/c.wav": 1.0, "$RECYCLE.BIN/d.wav": 1.0}
    imported = import_folder(tmp_path, files | twins | archive | system, recordings)
    assert imported.texts == ["one", "two"]
    assert imported.result.recordings.total == 2


def test_clutter_is_no_recording_without_texts(tmp_path: Path) -> None:
    files = {"._a.wav": _TWIN, "__MACOSX/._b.wav": _TWIN}
    recordings = {"a.wav": 1.0, "@eaDir/b.wav": 1.0, ".Trash/c.wav": 1.0}
    imported = import_folder(tmp_path, files, recordings, want_text=False)
    assert [item.audio.name for item in imported.utterances] == ["a.wav"]


# --- sub-folders


@pytest.mark.parametrize(
    ("files", "recordings"),
    [
        ({"s1/a.txt": "one", "s2/b.TXT": "two"}, {"s1/a.wav": 1, "s2/b.WAV": 1}),
        ({"txt/a.txt": "one", "txt/b.txt": "two"}, {"wav/a.wav": 1, "wav/b.wav": 1}),
        ({"text/s/a.lab": "one", "text/s/b.lab": "two"}, {"audio/s/a.wav": 1, "audio/s/b.wav": 1}),
        ({"s/txt/a.txt": "one", "t/txt/b.txt": "two"}, {"s/wav/a.wav": 1, "t/wav/b.wav": 1}),
        ({"a.txt": "one", "b.txt": "two"}, {"wav/a.wav": 1, "wav/b.wav": 1}),
        ({"text/a.txt": "one", "text/b.txt": "two"}, {"a.wav": 1, "b.wav": 1}),
        ({"A.Txt": "one", "b.wav.txt": "two"}, {"a.wav": 1, "b.wav": 1}),
    ],
)
def test_transcripts_in_other_folders_and_cases(
    files: dict[str, str], recordings: dict[str, float], tmp_path: Path
) -> None:
    imported = import_folder(tmp_path, files, recordings)
    assert imported.texts == ["one", "two"]
    assert ("are in" in imported.remarks) == any(
        Path(text).parent != Path(wav).parent for text, wav in zip(files, recordings, strict=True)
    )


def test_the_text_of_another_speaker_is_not_taken(tmp_path: Path) -> None:
    files = {"anna/001.txt": "one", "ben/001.txt": "un", "ben/002.txt": "deux"}
    recordings = {"anna/001.wav": 1.0, "anna/002.wav": 1.0, "ben/001.wav": 1.0}
    imported = import_folder(tmp_path, files, recordings)
    assert imported.texts == ["one", "un"]
    assert imported.result.recordings.names == ("anna/002.wav",)


def test_a_text_for_several_speakers_is_doubtful(tmp_path: Path) -> None:
    recordings = {"anna/001.wav": 1.0, "ben/001.wav": 1.0}
    with pytest.raises(ProblemsError, match="may be the transcript of several recordings"):
        import_folder(tmp_path, {"txt/001.txt": "one"}, recordings)


def test_cues_of_recordings_with_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    cue = "1\n00:00:00,000 --> 00:00:01,000\n{}\n"
    files = {"x/a.srt": cue.format("one"), "y/a.srt": cue.format("two")}
    imported = import_folder(tmp_path, files, {"x/a.wav": 1.0, "y/a.wav": 1.0})
    assert [item.id for item in imported.utterances] == ["x/a-00001", "y/a-00001"]


def test_what_is_no_transcript_is_named(tmp_path: Path) -> None:
    files = {"a.rttm": "SPEAKER a 1 0 1 <NA> <NA> s <NA> <NA>\n", "notes.docx": "PK",
             "text/words.csv": "file,text\na.wav,one\n"}  # fmt: skip
    with pytest.raises(RequestError) as caught:
        import_folder(tmp_path, files, {"a.wav": 1.0})
    assert "1 recordings and no transcripts" in caught.value.message
    assert "1 .rttm, such as a.rttm (who speaks when, without words)" in caught.value.message
    assert "Word files" in caught.value.message
    assert f"--table {tmp_path}/corpus/text/words.csv" in str(caught.value.hint)


# --- counts


def _assert_sums(result: ImportResult) -> None:
    counts = result.recordings
    parts = counts.used + counts.left_out + counts.without_transcript + counts.in_no_row
    assert parts == counts.total
    assert len(counts.names) == counts.without_transcript + counts.in_no_row
    assert result.rows == result.kept + sum(result.reasons.values())


@pytest.mark.parametrize("seed", range(12))
def test_every_recording_is_counted_once(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    kinds = ["good", "silent", "unreadable", "empty text", "bad cue", "outside"]
    names = {f"{rng.choice(['', 's1/', 's2/x/'])}r{n}": rng.choice(kinds) for n in range(15)}
    names["last"] = "good"
    recordings, files = {}, {}
    for name, kind in names.items():
        if kind == "unreadable":
            files[f"{name}.wav"] = "not audio"
        else:
            recordings[f"{name}.wav"] = 1.0
        if kind == "bad cue":
            cue = "1\n00:00:00,500 --> 00:00:00,100\nback\n\n"
            good = "2\n00:00:00,600 --> 00:00:00,900\nfine\n" if rng.random() < 0.5 else ""
            files[f"{name}.srt"] = cue + good
            names[name] = "good" if good else kind
        elif kind == "outside":
            files[f"{name}.txt"] = "0.5\t7.5\tlate\n0.6\t8.0\tx\n0.7\t9.0\ty\n"
        elif kind != "silent":
            files[f"{name}.txt"] = " " if kind == "empty text" else f"the text of {name}"
    result = import_folder(tmp_path, files, recordings, skip_bad=True).result
    _assert_sums(result)
    kept = list(names.values())
    assert result.recordings.total == len(names)
    assert result.recordings.used == kept.count("good")
    assert result.recordings.without_transcript == kept.count("silent") + kept.count("empty text")
    assert result.recordings.left_out == len(names) - result.recordings.used - (
        result.recordings.without_transcript
    )


@pytest.mark.parametrize("seed", range(6))
def test_every_recording_of_a_table_is_counted_once(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    rows, used, silent, unlisted = ["file,text,start,end"], set(), set(), set()
    for number in range(12):
        name, kind = f"r{number}.wav", rng.choice(["good", "silent", "unlisted", "late", "two"])
        if kind == "unlisted":
            unlisted.add(name)
            continue
        rows += {
            "good": [f"{name},one,,"],
            "silent": [f"{name},,,"],
            "late": [f"{name},one,3,4"],
            "two": [f"{name},one,0,0.5", f"{name},,0.5,1"],
        }[kind]
        (silent if kind == "silent" else used if kind != "late" else set()).add(name)
    rows += ["r99.wav,good,,", "gone.wav,one,,"]
    recordings = {f"r{number}.wav": 1.0 for number in (*range(12), 99)}
    files = {"t.csv": "\n".join(rows) + "\n"}
    result = import_folder(tmp_path, files, recordings, skip_bad=True).result
    _assert_sums(result)
    assert result.recordings.used == len(used) + 1
    assert (result.recordings.without_transcript, result.recordings.in_no_row) == (
        len(silent), len(unlisted),
    )  # fmt: skip
    assert set(result.recordings.names) == silent | unlisted
    assert result.unlisted == len(unlisted)


def test_recordings_without_transcripts_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = {f"r{number}.wav": 1.0 for number in range(6)}
    folder = make_folder(tmp_path / "corpus", {"r0.txt": "one"}, recordings)
    command = ["data", "import", str(folder), "--out", str(tmp_path / "out.jsonl")]
    assert run(command) == 0
    captured = capsys.readouterr()
    assert "6 recordings: 1 used, 5 without a transcript" in captured.out
    assert "without a transcript: r1.wav, r2.wav, r3.wav, …" in captured.err
    assert "--no-text" in captured.err
    assert run([*command, "--force", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recordings"]["without_transcript"] == 5
    assert document["recordings"]["names"] == [f"r{number}.wav" for number in range(1, 6)]


def test_copies_of_an_earlier_import_are_no_recordings(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "corpus", {"a.txt": "one"}, {"a.wav": 1.0})
    request = ImportRequest(folder, tmp_path / "o.jsonl", audio_out=folder / "copies", force=True)
    for _ in range(2):
        result = import_data(request, SilentProgress())
        assert (result.recordings.total, result.recordings.used) == (1, 1)


def test_texts_that_are_lists_or_objects_are_refused_by_row(tmp_path: Path) -> None:
    table = 'file;text\na.wav;["hello", "you"]\nb.wav;{\'text\': 1}\nc.wav;[laughs] fine\n'
    recordings = {"a.wav": 1.0, "b.wav": 1.0, "c.wav": 1.0}
    with pytest.raises(ProblemsError) as caught:
        import_folder(tmp_path, {"t.csv": table}, recordings)
    assert [problem.partition(": ")[2].partition(": ")[2] for problem in caught.value.problems] == [
        'the text is a list or an object: ["hello", "you"]',
        "the text is a list or an object: {'text': 1}",
    ]  # fmt: skip
    assert "t.csv:2" in caught.value.problems[0]


def test_printed_commands_work_with_spaces(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "my corpus", {"sub dir/words.csv": "x"}, {"a.wav": 1.0})
    with pytest.raises(RequestError) as caught:
        import_data(ImportRequest(folder, tmp_path / "o.jsonl"), SilentProgress())
    hint = str(caught.value.hint).partition("--table ")[2].partition(", or")[0]
    done = subprocess.run(["sh", "-c", f"cat {hint}"], capture_output=True, text=True, check=True)
    assert done.stdout == "x"


@pytest.mark.parametrize(
    ("recordings", "texts"),
    [("anna", "ben"), ("day1", "day2"), ("session1_audio", "session2_text"), ("a/wav", "b/wav")],
)
def test_a_folder_of_another_name_may_be_another_persons(
    recordings: str, texts: str, tmp_path: Path
) -> None:
    files = {f"{texts}/00{n}.txt": f"text {n}" for n in (1, 2)}
    clips = {f"{recordings}/00{n}.wav": 1.0 for n in (1, 2)}
    with pytest.raises(RequestError, match="may be of another person") as caught:
        import_folder(tmp_path, files, clips)
    name = texts.rpartition("/")[2]
    assert f"--transcripts {name}" in str(caught.value.hint)
    imported = import_folder(tmp_path, files, clips, transcripts=name)
    assert imported.texts == ["text 1", "text 2"]


@pytest.mark.parametrize(
    ("recordings", "texts"),
    [("wav48_silence_trimmed", "txt"), ("s1_audio", "s1_text"), ("anna", "transcripts")],
)
def test_folders_named_by_their_kind_are_parallel(
    recordings: str, texts: str, tmp_path: Path
) -> None:
    imported = import_folder(tmp_path, {f"{texts}/1.txt": "go on"}, {f"{recordings}/1.wav": 1.0})
    assert imported.texts == ["go on"]


def test_a_lost_text_is_not_replaced_by_another_persons(tmp_path: Path) -> None:
    files = {"anna/002.txt": "mine", "ben/001.txt": "of ben", "003.txt": "of all"}
    clips = {"anna/001.wav": 1.0, "anna/002.wav": 1.0}
    imported = import_folder(tmp_path, files, clips)
    assert imported.texts == ["mine"]
    assert "may be of another person" in imported.remarks


def test_a_text_above_is_doubtful_where_one_speaker_has_his_own(tmp_path: Path) -> None:
    files = {"001.txt": "of whom", "anna/001.txt": "mine"}
    with pytest.raises(ProblemsError, match="may be the transcript of several recordings"):
        import_folder(tmp_path, files, {"anna/001.wav": 1.0, "ben/001.wav": 1.0})


def test_a_link_that_leads_to_itself_is_a_recording_that_cannot_be_read(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "loop.wav").symlink_to("loop.wav")
    (corpus / "ring").symlink_to(".")
    files = {"a.txt": "words of a", "loop.txt": "words of nothing"}
    imported = import_folder(tmp_path, files, {"a.wav": 1.0})
    assert imported.texts == ["words of a"]
