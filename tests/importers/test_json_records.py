"""Tables in JSON of any nesting, whatever their ending."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.corpus_folder import import_folder, make_folder

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.checks.check import check_data
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data

_RECORDINGS = {"wav/a.wav": 3.0, "wav/b.wav": 2.0}
_A, _B = "wav/a.wav", "wav/b.wav"


def _lines(*records: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, records)) + "\n"


def _annotation(*regions: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"result": [{"id": f"r{n}", "value": region} for n, region in enumerate(regions)]}]


_FORMS = {
    "NeMo": _lines(
        {"audio_filepath": _A, "text": "one", "duration": 3.0, "speaker": 7},
        {"audio_filepath": _B, "text": "two", "duration": 2.0, "speaker": 8},
    ),
    "array": json.dumps([{"audio": _A, "sentence": "one"},
                         {"audio": _B, "sentence": "two"}], indent=1),
    "path in an object": _lines(
        {"audio": {"path": _A}, "sentence": "one", "sentences": [{"start": 0, "text": "no"}]},
        {"audio": {"path": _B}, "sentence": "two", "sentences": []},
    ),
    "Label Studio, short": json.dumps([
        {"audio": "/data/upload/3/1a2b3c4d-a.wav", "id": 1, "transcription": "one"},
        {"audio": "/data/upload/3/5e6f7a8b-b.wav", "id": 2, "transcription": "two"},
    ]),
    "Label Studio, local files": json.dumps([
        {"audio": f"/data/local-files/?d={_A}", "id": 1, "transcription": "one"},
        {"audio": f"/data/local-files/?d={_B}", "id": 2, "transcription": "two"},
    ]),
    "Label Studio": json.dumps([
        {"id": 1, "data": {"audio": _A}, "annotations": _annotation({"text": ["one"]})},
        {"id": 2, "data": {"audio": _B}, "annotations": _annotation({"text": ["two"]})},
    ]),
    "ids": json.dumps({"u1": {"audio": _A, "text": "one"}, "u2": {"audio": _B, "text": "two"}}),
    "recordings": json.dumps({_A: "one", _B: "two"}),
    "names": json.dumps({"a": {"text": "one"}, "b": {"text": "two"}}),
    "utterances": json.dumps(
        {"version": 1, "utterances": [{"wav": _A, "transcript": "one"},
                                      {"wav": _B, "transcript": "two"}]}, indent=2
    ),
    "splits": json.dumps({"train": [{"path": _A, "text": "one"}],
                          "test": [{"path": _B, "text": "two"}]}),
    "rows": json.dumps({"rows": [{"row": {"audio": [{"src": _A}], "text": "one"}},
                                 {"row": {"audio": [{"src": _B}], "text": "two"}}]}),
}  # fmt: skip


# Whether `a` is a recording is known only for a file that the user names.
@pytest.mark.parametrize(
    ("form", "how"),
    [
        (form, how)
        for form in _FORMS
        for how in ("folder", "file", "table")
        if (form, how) != ("names", "folder")
    ],
)
def test_json_tables_of_all_forms(form: str, how: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "corpus", {"train_manifest.json": _FORMS[form]}, _RECORDINGS)
    file = folder / "train_manifest.json"
    request = ImportRequest(
        file if how == "file" else folder,
        tmp_path / "out.jsonl",
        table=file if how == "table" else None,
    )
    import_data(request, SilentProgress())
    utterances = read_manifest(tmp_path / "out.jsonl").utterances
    assert [(item.audio.name, item.text) for item in utterances] == [
        ("a.wav", "one"), ("b.wav", "two"),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json"])
def test_the_content_decides_between_lines_and_arrays(ending: str, tmp_path: Path) -> None:
    for form in ("NeMo", "array"):
        imported = import_folder(tmp_path / form, {f"t{ending}": _FORMS[form]}, _RECORDINGS)
        assert imported.texts == ["one", "two"]
    content = _FORMS["array"].encode("utf-16")
    assert import_folder(tmp_path, {"t.json": content}, _RECORDINGS).texts == ["one", "two"]


def test_segments_of_a_recording_are_spans(tmp_path: Path) -> None:
    segments = [{"start": 0, "end": 1, "text": "one"}, {"start": 1.5, "end": 2.5, "text": "two"}]
    document = json.dumps([{"id": "t", "audio": _A, "speaker": "ada", "segments": segments}])
    imported = import_folder(tmp_path, {"t.json": document}, _RECORDINGS)
    assert imported.spans == [(0, 1, "one"), (1.5, 2.5, "two")]
    assert [item.speaker for item in imported.utterances] == ["ada", "ada"]
    regions = _annotation(*(segment | {"text": [segment["text"]]} for segment in segments))
    document = json.dumps([{"id": 5, "data": {"audio": _A}, "annotations": regions}])
    imported = import_folder(tmp_path / "regions", {"t.json": document}, _RECORDINGS)
    assert imported.spans == [(0, 1, "one"), (1.5, 2.5, "two")]


def test_one_object_beside_each_recording(tmp_path: Path) -> None:
    files = {f"wav/{name}.json": json.dumps({"id": name, "wav": f"x/{name}.mp3", "text": text,
                                             "speaker": f"s{name}", "language": "en"})
             for name, text in (("a", "one"), ("b", "two"))}  # fmt: skip
    imported = import_folder(tmp_path, files, _RECORDINGS)
    assert [(item.text, item.speaker, item.language) for item in imported.utterances] == [
        ("one", "sa", "en"), ("two", "sb", "en"),
    ]  # fmt: skip


def test_settings_in_json_are_no_tables(tmp_path: Path) -> None:
    files = {
        "config.json": '{"model": "x", "path": "y", "files": ["a"]}',
        "dataset_info.json": '{"features": {"audio": {"_type": "Audio"}}, "path": "x"}',
        "words.csv": "audio,text\nwav/a.wav,one\n",
    }
    assert import_folder(tmp_path, files, _RECORDINGS).texts == ["one"]


def test_texts_that_are_lists_are_named_by_record(tmp_path: Path) -> None:
    records = [{"audio": _A, "text": "one"}, {"audio": _B, "text": ["two", "three"]}]
    with pytest.raises(ProblemsError) as caught:
        import_folder(tmp_path, {"t.json": json.dumps(records)}, _RECORDINGS)
    (problem,) = caught.value.problems
    assert "t.json, record 2" in problem and "['two', 'three']" in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no rows"), ("hello", "not JSON"), ("[1, 2]", "not a JSON object"), ("{}", "no rows")],
)
def test_json_without_records_is_refused(content: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "corpus" / "t.json"
    with pytest.raises(RequestError, match=message):
        import_folder(tmp_path, {"t.json": content}, _RECORDINGS, table=table)


@pytest.mark.parametrize("form", ["NeMo", "array", "ids", "Label Studio"])
def test_check_says_how_to_import_such_a_file(form: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "my corpus", {"data.json": _FORMS[form]}, _RECORDINGS)
    with pytest.raises(RequestError, match="not a manifest") as caught:
        check_data([folder / "data.json"], SilentProgress())
    assert f"moonshine-tune data import '{folder}/data.json' --out" in str(caught.value.hint)


def test_check_reads_lines_of_a_manifest_in_json(tmp_path: Path) -> None:
    content = _lines({"audio_filepath": _A, "text": "one"}, {"audio_filepath": _B, "text": "two"})
    folder = make_folder(tmp_path / "corpus", {"data.json": content}, _RECORDINGS)
    assert check_data([folder / "data.json"], SilentProgress()).manifests[0].utterances == 2


@pytest.mark.parametrize("first", ["1e-400", "[[1]]", "{", "null"])
def test_lines_that_are_no_objects_are_named(first: str, tmp_path: Path) -> None:
    record = {"audio": {"path": _A}, "text": "one"}
    content = f"{first}\n{_lines(record)}"
    with pytest.raises(ProblemsError) as caught:
        import_folder(tmp_path, {"all.jsonl": content}, _RECORDINGS)
    assert [":1: " in problem for problem in caught.value.problems] == [True]


@pytest.mark.parametrize("second", [{"was_cancelled": True}, {}])
def test_annotations_of_a_task_that_differ_need_a_mark(
    second: dict[str, Any], tmp_path: Path
) -> None:
    (first,), (other,) = _annotation({"text": ["one"]}), _annotation({"text": ["won"]})
    tasks = [{"id": 1, "data": {"audio": _A}, "annotations": [other | second, first]},
             {"id": 2, "data": {"audio": _B}, "annotations": [other]}]  # fmt: skip
    files, recordings = {"tasks.json": json.dumps(tasks)}, {_A: 3.0, _B: 2.0}
    if second:
        assert import_folder(tmp_path, files, recordings).texts == ["one", "won"]
        return
    with pytest.raises(ProblemsError, match="2 annotations of this task differ"):
        import_folder(tmp_path, files, recordings)
    tasks[0]["annotations"] = [other, first | {"ground_truth": True}]
    files = {"tasks.json": json.dumps(tasks)}
    assert import_folder(tmp_path, files, recordings).texts == ["one", "won"]
