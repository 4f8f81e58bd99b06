"""`data check` through the real entry point: every kind of problem, its ids, and the exit code."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from moonshine_tune.audio.samples import Samples
from moonshine_tune.cli.app import run
from moonshine_tune.data.checks.text import in_capitals, spoken_length

RATE = 16_000
Samples16 = npt.NDArray[np.int16]


def voice(seconds: float = 2.0, seed: int = 0, amplitude: float = 0.3) -> Samples:
    """Noise that rises and falls like speech, different for each seed."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).uniform(-1, 1, len(times))
    return (amplitude * noise * np.abs(np.sin(math.pi * 3 * times))).astype(np.float32)


def recorded(seconds: float, seed: int) -> Samples16:
    """The same as 16-bit numbers, which WAV and FLAC store without loss."""
    return np.round(voice(seconds, seed) * 32767).astype(np.int16)


class Corpus:
    """A folder with recordings and manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = 0

    def clip(self, name: str, samples: Samples | Samples16 | None = None, rate: int = RATE) -> str:
        self.seed += 1
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(seed=self.seed) if samples is None else samples, rate)
        return name

    def line(self, name: str, **more: Any) -> dict[str, Any]:
        """A valid line with its own recording, text and speaker."""
        record = {"id": name, "text": f"take off {name}", "speaker": f"of {name}"}
        record |= {"audio": more.pop("audio", None) or self.clip(f"{name}.wav")}
        return record | more

    def manifest(self, lines: Sequence[dict[str, Any] | str], name: str = "train.jsonl") -> Path:
        path = self.folder / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


Check = Callable[..., dict[str, Any]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the command; returns its JSON document with findings by (manifest, kind)."""

    def do(*paths: Path, code: int) -> dict[str, Any]:
        capsys.readouterr()
        assert run(["data", "check", *map(str, paths), "--json"]) == code
        document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        document["by_kind"] = {item["kind"]: item for item in document.get("findings", [])}
        return document

    return do


def test_a_valid_manifest_passes_without_findings(corpus: Corpus, check: Check) -> None:
    path = corpus.manifest([corpus.line("one"), corpus.line("two", duration=2.0)])
    document = check(path, code=0)
    assert document["passed"] is True
    assert document["findings"] == []
    (summary,) = document["manifests"]
    assert (summary["lines"], summary["clean"], summary["seconds"]) == (2, 2, 4.0)


def problem_lines(corpus: Corpus) -> dict[str, dict[str, Any] | str]:
    """Kind → a line with this problem and with no other error or warning."""
    (corpus.folder / "zero.wav").write_bytes(b"")
    (corpus.folder / "noise.wav").write_bytes(b"this is not audio" * 100)
    complete = (corpus.folder / corpus.clip("whole.flac")).read_bytes()
    (corpus.folder / "half.flac").write_bytes(complete[: len(complete) // 2])
    muted = np.random.default_rng(1).normal(0, 0.0002, 2 * RATE).astype(np.float32)
    clipped = np.clip(voice(2.0, 77, 3.0), -1, 1)
    quiet_end = np.concatenate([voice(2.0, 78), np.zeros(4 * RATE, dtype=np.float32)])
    return {
        "bad_line": "{not json",
        "missing_recording": corpus.line("missing", audio="nowhere.wav"),
        "unreadable": corpus.line("garbage", audio="noise.wav"),
        "cut": corpus.line("cut", audio="half.flac"),
        "empty_audio": corpus.line("hollow", audio="zero.wav"),
        "no_samples": corpus.line(
            "unsung", audio=corpus.clip("none.wav", np.zeros(0, dtype=np.float32))
        ),
        "silent": corpus.line("muted", audio=corpus.clip("muted.wav", muted)),
        "span_outside": corpus.line("beyond", start=1.0, end=9.0),
        "far_too_short": corpus.line("blip", audio=corpus.clip("blip.wav", voice(0.05, 79))),
        "missing_text": corpus.line("wordless", text=None),
        "empty_text": corpus.line("dots", text=" ... "),
        "too_short": corpus.line("brief", audio=corpus.clip("brief.wav", voice(0.8, 80))),
        "too_long": corpus.line("endless", audio=corpus.clip("endless.flac", voice(31.0, 81))),
        "clipped": corpus.line("loud", audio=corpus.clip("loud.wav", clipped)),
        "capitals": corpus.line("shout", text="TURN LEFT HEADING ONE TWO ZERO"),
        "wrong_duration": corpus.line("liar", duration=3.5),
        "sample_rate": corpus.line("phone", audio=corpus.clip("phone.wav", voice(4.0, 82), 8000)),
        "long_silence": corpus.line("pause", audio=corpus.clip("pause.wav", quiet_end)),
    }


def test_each_problem_is_reported_with_its_ids(corpus: Corpus, check: Check) -> None:
    lines = problem_lines(corpus)
    document = check(corpus.manifest([corpus.line("good"), *lines.values()]), code=1)
    findings = document["by_kind"]
    expected = {
        kind: [line["id"] if isinstance(line, dict) else "line 2"]
        for kind, line in lines.items()
        if kind not in ("cut", "no_samples")
    }
    expected["unreadable"] = ["garbage", "cut"]
    expected["empty_audio"] = ["hollow", "unsung"]
    # No text of this corpus has punctuation.
    assert findings.pop("unlike_base_style")["count"] >= 4
    assert {kind: item["ids"] for kind, item in findings.items()} == expected
    for item in findings.values():
        assert item["count"] == len(item["ids"]) == len(item["details"])
        assert item["explanation"].startswith(f"{item['count']} ") and item["action"]
    assert findings["sample_rate"]["details"] == ["8000 Hz"]
    assert findings["too_short"]["details"] == ["0.80 s"]


def test_every_line_is_clean_or_named(corpus: Corpus, check: Check) -> None:
    lines = problem_lines(corpus)
    document = check(corpus.manifest([corpus.line("good"), *lines.values()]), code=1)
    (summary,) = document["manifests"]
    named = {
        identifier
        for item in document["findings"]
        if item["severity"] != "note"
        for identifier in item["ids"]
    }
    # The valid line, and the two lines with only a note.
    assert summary["clean"] == 3
    assert summary["lines"] == summary["clean"] + len(named) == len(lines) + 1


@pytest.mark.parametrize(
    "kind",
    ["too_short", "too_long", "clipped", "capitals", "wrong_duration", "sample_rate",
     "long_silence"],
)  # fmt: skip
def test_warnings_and_notes_alone_pass(kind: str, corpus: Corpus, check: Check) -> None:
    lines = problem_lines(corpus)
    document = check(corpus.manifest([corpus.line("good"), lines[kind]]), code=0)
    assert [item["kind"] for item in document["findings"]] == [kind]
    assert document["passed"] is True


@pytest.mark.parametrize(
    "kind",
    ["bad_line", "missing_recording", "unreadable", "cut", "empty_audio", "no_samples", "silent",
     "span_outside", "far_too_short", "missing_text", "empty_text"],
)  # fmt: skip
def test_each_error_alone_fails(kind: str, corpus: Corpus, check: Check) -> None:
    lines = problem_lines(corpus)
    document = check(corpus.manifest([corpus.line("good"), lines[kind]]), code=1)
    assert [item["severity"] for item in document["findings"]] == ["error"]
    assert document["errors"] == 1
    assert document["passed"] is False


def test_a_repeated_id_is_an_error_that_names_both_lines(corpus: Corpus, check: Check) -> None:
    lines = [corpus.line("a"), corpus.line("b"), corpus.line("a", audio=corpus.clip("c.wav"))]
    finding = check(corpus.manifest(lines), code=1)["by_kind"]["duplicate_id"]
    assert finding["ids"] == ["a"]
    assert "line 3" in finding["details"][0]
    assert "line 1" in finding["details"][0]


def test_same_audio_and_same_text_is_a_warning(corpus: Corpus, check: Check) -> None:
    lines = [corpus.line("a", text="Go."), corpus.line("b", audio="a.wav", text="go")]
    findings = check(corpus.manifest(lines), code=0)["by_kind"]
    assert findings["duplicate_audio"]["ids"] == ["a", "b"]
    assert findings["same_text"]["severity"] == "note"
    assert "conflicting_texts" not in findings


def test_same_audio_under_another_name_and_format_with_another_text_is_an_error(
    corpus: Corpus, check: Check
) -> None:
    samples = recorded(2.0, 5)
    lines = [
        corpus.line("a", audio=corpus.clip("a.wav", samples), text="go left"),
        corpus.line("b", audio=corpus.clip("b.flac", samples), text="go right"),
    ]
    findings = check(corpus.manifest(lines), code=1)["by_kind"]
    assert findings["conflicting_texts"]["ids"] == ["a", "b"]


def test_spans_of_one_recording_are_not_duplicates(corpus: Corpus, check: Check) -> None:
    corpus.clip("long.wav", voice(6.0, 3))
    lines = [
        corpus.line(f"part {n}", audio="long.wav", start=2.0 * n, end=2.0 * n + 2) for n in range(3)
    ]
    assert check(corpus.manifest(lines), code=0)["findings"] == []


def test_a_manifest_without_any_text_is_a_warning(corpus: Corpus, check: Check) -> None:
    lines = [corpus.line("a", text=None), corpus.line("b", text=None)]
    document = check(corpus.manifest(lines), code=0)
    assert [item["kind"] for item in document["findings"]] == ["no_texts"]
    assert document["manifests"][0]["clean"] == 2


def test_exchanged_texts_are_speech_rate_outliers(corpus: Corpus, check: Check) -> None:
    lines = []
    for number in range(24):
        seconds = 2.0 + number % 5
        text = " ".join(["word"] * round(3 * seconds))
        lines.append(
            corpus.line(
                f"u{number}",
                audio=corpus.clip(f"u{number}.wav", voice(seconds, 200 + number)),
                text=f"{text} {number}",
            )
        )
    assert "speech_rate" not in check(corpus.manifest(lines), code=0)["by_kind"]
    lines[0]["text"], lines[4]["text"] = " ".join(["word"] * 60), "one"
    findings = check(corpus.manifest(lines), code=0)["by_kind"]["speech_rate"]
    assert set(findings["ids"]) == {"u0", "u4"}
    assert "median" in findings["details"][0]


def test_a_corpus_that_plays_twice_as_fast_is_named(corpus: Corpus, check: Check) -> None:
    def lines(rate: int) -> list[dict[str, Any]]:
        # Read sentences: 13 characters per second.
        samples = [voice(3.0 + n / 2, 300 + n) for n in range(6)]
        return [
            corpus.line(
                f"r{rate}-{n}",
                audio=corpus.clip(f"{rate}-{n}.wav", sound, rate),
                text=" ".join(["sentence"] * round(13 * len(sound) / RATE / 8)),
            )
            for n, sound in enumerate(samples)
        ]

    assert "too_fast" not in check(corpus.manifest(lines(RATE)), code=0)["by_kind"]
    finding = check(corpus.manifest(lines(2 * RATE)), code=0)["by_kind"]["too_fast"]
    assert len(finding["ids"]) == 6 and "characters per second" in finding["details"][0]
    # One clip alone has to be beyond all doubt.
    (line, *_) = lines(RATE)
    line["text"] = " ".join(["sentence"] * 20)
    finding = check(corpus.manifest([line]), code=0)["by_kind"]["too_fast"]
    assert finding["ids"] == [line["id"]]


def test_recordings_outside_the_folder_are_a_note(corpus: Corpus, check: Check) -> None:
    audio = corpus.clip("a.wav")
    (corpus.folder / "lists").mkdir()
    path = corpus.manifest([corpus.line("a", audio=f"../{audio}")], "lists/train.jsonl")
    document = check(path, code=0)
    assert document["by_kind"]["outside_folder"]["ids"] == ["a"]
    assert document["notes"] == 1


def test_leakage_between_manifests_is_found(corpus: Corpus, check: Check) -> None:
    shared = recorded(2.0, 9)
    train = corpus.manifest(
        [
            corpus.line("t1", speaker="ann"),
            corpus.line("t2", text="Hold short!"),
            corpus.line("t3", audio=corpus.clip("first.wav", shared)),
            corpus.line("t4"),
        ]
    )
    test = corpus.manifest(
        [
            corpus.line("e1", speaker="ann"),
            corpus.line("e2", text="hold short"),
            corpus.line("e3", audio=corpus.clip("copy.flac", shared)),
            corpus.line("e4", audio="t4.wav"),
            corpus.line("t1", audio=corpus.clip("own.wav"), text="other", speaker=None),
        ],
        "test.jsonl",
    )
    document = check(train, test, code=1)
    findings = document["by_kind"]
    assert findings["leaked_speakers"]["ids"] == ["train:t1", "test:e1"]
    assert findings["leaked_texts"]["ids"][:2] == ["train:t2", "test:e2"]
    assert set(findings["leaked_recordings"]["ids"]) == {
        "train:t3", "test:e3", "train:t4", "test:e4",
    }  # fmt: skip
    assert findings["unknown_speakers"]["ids"] == ["test:t1"]
    severities = {kind: item["severity"] for kind, item in findings.items()}
    assert severities["leaked_speakers"] == severities["leaked_recordings"] == "error"
    assert severities["leaked_texts"] == "warning"
    assert document["sides"] == {"train": 4, "test": 5}


def test_shared_texts_alone_pass(corpus: Corpus, check: Check) -> None:
    train = corpus.manifest([corpus.line("a", text="yes")])
    test = corpus.manifest([corpus.line("b", text="yes")], "test.jsonl")
    document = check(train, test, code=0)
    assert [item["kind"] for item in document["findings"]] == ["leaked_texts"]


def test_values_of_the_split_field_are_splits(corpus: Corpus, check: Check) -> None:
    lines = [
        corpus.line("a", split="train", speaker="ann"),
        corpus.line("b", split="test", speaker="ann"),
        corpus.line("c", speaker="ann"),
        corpus.line("d", split="train", speaker="bob"),
    ]
    findings = check(corpus.manifest(lines), code=1)["by_kind"]
    assert findings["leaked_speakers"]["ids"] == ["train:a", "test:b"]


def test_manifests_of_the_same_name_are_distinguished(corpus: Corpus, check: Check) -> None:
    paths = []
    for name in ("one", "two"):
        (corpus.folder / name).mkdir()
        lines = [
            corpus.line(name, audio=f"../{corpus.clip(f'{name}.wav')}", speaker="ann"),
            corpus.line(f"{name}-2", audio=f"../{corpus.clip(f'{name}-2.wav')}", speaker=name),
        ]
        paths.append(corpus.manifest(lines, f"{name}/data.jsonl"))
    document = check(*paths, code=1)
    ids = document["by_kind"]["leaked_speakers"]["ids"]
    assert ids == [f"{paths[0]}:one", f"{paths[1]}:two"]


def test_the_report_file_has_the_findings(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus.manifest([corpus.line("a"), "{"])
    report = tmp_path / "out" / "findings.json"
    assert run(["data", "check", str(path), "--report", str(report)]) == 1
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["findings"][0]["kind"] == "bad_line"
    assert document["findings"][0]["ids"] == ["line 2"]


def test_the_report_never_overwrites_a_manifest(corpus: Corpus) -> None:
    path = corpus.manifest([corpus.line("a")])
    before = path.read_bytes()
    assert run(["data", "check", str(path), "--report", str(path)]) == 2
    assert path.read_bytes() == before


def test_the_text_has_the_problem_and_what_to_do(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corpus.manifest([corpus.line("a"), corpus.line("b", audio="gone.wav")])
    assert run(["data", "check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "missing_recording" in out
    assert "gone.wav" in out
    assert "1 recording does not exist" in out
    assert "fix the path" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no utterances"), ("\n\n", "no utterances"), (None, "no such manifest")],
)
def test_an_empty_manifest_is_a_wrong_request(
    content: str | None, message: str, tmp_path: Path, check: Check
) -> None:
    path = tmp_path / "train.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    document = check(path, code=2)
    assert message in document["error"]["message"]
    assert "data import" in document["error"]["hint"]


def test_a_manifest_of_invalid_lines_is_a_finding(corpus: Corpus, check: Check) -> None:
    document = check(corpus.manifest(["{", "[]"]), code=1)
    assert document["by_kind"]["bad_line"]["ids"] == ["line 1", "line 2"]


def test_one_manifest_twice_is_refused(corpus: Corpus, check: Check) -> None:
    path = corpus.manifest([corpus.line("a")])
    assert "twice" in check(path, path, code=2)["error"]["message"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("TURN LEFT", True), ("A", False), ("B C D", False), ("OK", False), ("NASA", True),
        ("Call NASA", False), ("123", False), ("ПОВЕРНИ НАЛЕВО", True), ("안녕하세요", False),
    ],
)  # fmt: skip
def test_what_counts_as_capitals(text: str, answer: bool) -> None:
    assert in_capitals(text) is answer


def test_spelled_letters_and_digits_take_as_long_as_words() -> None:
    assert spoken_length("g m e f") == spoken_length("the cat was sad") == 12
    assert spoken_length("4 5") == spoken_length("45") == spoken_length("four five") == 8
