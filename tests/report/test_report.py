"""The report: from made-up folders, complete and damaged, to one page that is safe to open."""

import base64
import hashlib
import json
import math
import re
import wave
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moonshine_tune.audio.fingerprint import recording_fingerprint
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import ScoredUtterance, score_utterance, summarize
from moonshine_tune.report.cells import written_cell
from moonshine_tune.report.clips import EmbeddedClips
from moonshine_tune.report.page import MAX_BYTES, ReportResult, write_report
from moonshine_tune.runs.kept_adapter import write_selection
from moonshine_tune.runs.records import SelectionRecord

SPELLED = normalizer_for("spelled-1")
EVIL = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>&amp;\'"'
VOID = {"meta", "link", "input", "br", "img", "hr", "wbr"}


class _Page(HTMLParser):
    """What a browser would see: elements, their attributes, their text; and whether tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"never closed: {tag}" for tag in self._open]
        self.text = re.sub(r"\s+", " ", "".join(self._text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"closes what is not open: {tag}")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self._text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _no_odd_numbers(path: Path) -> None:
    """Every number in every drawing is one that a browser takes."""
    page = _Page(path.read_text(encoding="utf-8"))
    names = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "points", "width", "height")
    for tag, attributes in page.elements:
        if tag in ("line", "circle", "polyline", "text", "svg"):
            for name in names:
                for word in re.split(r"[ ,]+", attributes.get(name, "0")):
                    assert math.isfinite(float(word.rstrip("%"))), (tag, attributes)


# --- folders


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _write_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _tone(path: Path, seconds: float, seed: int = 0) -> None:
    """Noise, which no codec makes small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 6000, int(16_000 * seconds))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.clip(-32_000, 32_000).astype("<i2").tobytes())


def _scored(pairs: list[tuple[str, str]], speaker: str | None = "ann") -> list[ScoredUtterance]:
    return [
        score_utterance(f"u{index}", reference, hypothesis, SPELLED, speaker=speaker)
        for index, (reference, hypothesis) in enumerate(pairs)
    ]


def _run_folder(path: Path, *, steps: int = 30, dev: list[tuple[str, str]] | None = None) -> Path:
    _write_json(
        path / "run.json",
        {
            "command": ["moonshine-tune", "train", "--out", str(path)],
            "created": "2026-01-02T03:04:05+00:00",
            "settings": {
                "model": "tiny",
                "data": {"dev": str(path / "dev.jsonl")},
                "train": {"learning_rate": 0.001, "clip_norm": 1.0},
                "select": {"canary_bound": 2.0},
            },
            "sources": {"train.learning_rate": "--set"},
            "base": {"name": "tiny", "revision": "sha256:00"},
            "normalizer": "spelled-1",
            "versions": {"torch": "2.9"},
            "status": "finished",
            "result": {
                "steps": steps,
                "baseline": {"dev_wer": 40.0, "canary_wer": 5.0},
                "best": {"dev_wer": 20.0, "canary_wer": 9.0},
                "first_loss": 2.0,
                "last_loss": 0.5,
                "seconds": 12.0,
            },
        },
    )
    lines: list[dict[str, Any]] = [{"step": 0, "dev_wer": 40.0, "canary_wer": 5.0}]
    for step in range(1, steps + 1):
        loss = 2.0 / step
        rest = {"gradient_norm": 1.0, "replay_kl": 0.1, "memory_resident_mb": 900}
        times = {"learning_rate": 1e-3, "step_seconds": 0.5}
        lines.append({"step": step, "loss": loss, **times, **rest})
    lines.append({"step": steps, "dev_wer": 20.0, "canary_wer": 9.0})
    _write_lines(path / "metrics.jsonl", lines)
    _write_json(path / "adapter" / "selection.json", {"step": steps, "strength": 1.0})
    scored = _scored(dev or [("one two three", "one too three"), ("go on", "go on")])
    _write_lines(path / "eval" / "dev.jsonl", [item.to_record() for item in scored])
    return path


def _evaluation_folder(
    path: Path, pairs: list[tuple[str, str]], *, manifest_sha256: str = ""
) -> Path:
    scored = _scored(pairs)
    score = summarize(scored)
    _write_json(
        path / "result.json",
        {"wer": score.wer, "cer": score.cer, "ci95": list(score.ci95), "backend": "torch",
         "utterances": len(scored), "normalizer": "spelled-1", "model": "tiny", "rtf": 0.1,
         "manifest_sha256": manifest_sha256},
    )  # fmt: skip
    _write_lines(path / "hypotheses.jsonl", [item.to_record() for item in scored])
    return path


def _demo_folder(path: Path) -> Path:
    reference = "one two three four five"
    hypotheses = {
        "base": ("won too tree for five", "a b"),
        "adapted": ("one two three four five", "b b"),
    }
    for set_name in ("domain", "canary"):
        manifest = path / "data" / set_name / "manifest.jsonl"
        _write_lines(manifest, [{"id": "u0", "audio": "0.wav", "text": reference},
                                {"id": "u1", "audio": "1.wav", "text": "a b"}])  # fmt: skip
        for index in range(2):
            _tone(manifest.parent / f"{index}.wav", 0.5, index)
        fingerprint = hashlib.sha256(manifest.read_bytes()).hexdigest()
        for model in ("base", "adapted"):
            for backend in ("torch", "runtime"):
                _evaluation_folder(
                    path / "eval" / f"{set_name}-{model}-{backend}",
                    [(reference, hypotheses[model][0]), ("a b", hypotheses[model][1])],
                    manifest_sha256=fingerprint,
                )
    gate = {"figure": "+3.00", "bound": "+1 points at most"}
    _write_json(
        path / "demo.json",
        {"gates": [{"name": "canary is kept", "passed": False, **gate},
                   {"name": "parity", "passed": True, **gate},
                   {"name": "medium", "passed": None, **gate}],
         "seconds": {"total": 300.0}, "peak_memory_mb": 1234},
    )  # fmt: skip
    _run_folder(path / "run")
    return path


def _report(path: Path, **named: Any) -> tuple[ReportResult, _Page]:
    result = write_report(path, None, SilentProgress(), **{"with_audio": True, **named})
    page = _Page(result.report.read_text(encoding="utf-8"))
    assert page.faults == []
    assert result.num_bytes == result.report.stat().st_size
    return result, page


# --- complete folders


def test_demo_shows_scores_gates_curves_words_and_sound(tmp_path: Path) -> None:
    result, page = _report(_demo_folder(tmp_path / "demo"))
    assert (result.kind, result.missing) == ("demo", ())
    assert {"Domain", "Canary"} <= set(page.text.split())
    assert "57.14" in page.text  # 4 of 7 words wrong before
    assert "FAILED canary is kept +3.00 required: +1 points at most" in page.text
    assert "passed parity" in page.text
    assert "open medium" in page.text
    assert len(page.all("svg")) > 8
    assert "1,234 MB" in page.text
    sounds = [audio["src"] for audio in page.all("audio")]
    assert len(sounds) == result.num_clips == 4
    assert len(set(sounds)) == 2  # two recordings; both sets were made alike
    tags = {attributes["data-tags"] for attributes in page.all("article")}
    assert tags == {"damaged worst", "improved"}


def test_run_shows_its_own_gates_and_settings(tmp_path: Path) -> None:
    result, page = _report(_run_folder(tmp_path / "a"))
    assert result.kind == "run"
    assert "passed training loss falls 2.000 → 0.500" in page.text
    assert "FAILED canary is kept 5.00 → 9.00 required: +2 points at most" in page.text
    assert "train.learning_rate 0.001 --set" in page.text
    assert "Peak learning rate in the decoder; 5e-5 with" in page.text
    # A description is there to its end.
    assert written_cell("`qv`: " + 500 * "a").text == "“qv”: " + 500 * "a"
    assert f"moonshine-tune train --out {tmp_path / 'a'}" in page.text
    assert len(page.all("svg")) >= 8


def test_augmented_dev_has_a_curve_of_its_own(tmp_path: Path) -> None:
    plain = _report(_run_folder(tmp_path / "a"))[1]
    run = _run_folder(tmp_path / "b")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scored = [line | ({"dev_augmented_wer": 61.5} if "dev_wer" in line else {}) for line in lines]
    _write_lines(run / "metrics.jsonl", scored)
    changed = _report(run)[1]
    names = {
        page: [json.loads(svg["data-points"])[0][0] for svg in page.all("svg")
               if svg.get("aria-label", "").startswith("Dev WER")]
        for page in (plain, changed)
    }  # fmt: skip
    assert names == {plain: ["Dev WER"], changed: ["augmented"]}
    assert "every clip of dev augmented" in changed.text


def test_evaluation_alone(tmp_path: Path) -> None:
    folder = _evaluation_folder(tmp_path / "e", [("one two", "one to"), ("three", "three")])
    result, page = _report(folder)
    assert result.kind == "evaluation"
    assert "33.33" in page.text
    assert "moonshine-tune evaluate --model tiny --manifest MANIFEST" in page.text
    assert "Replace the names in capitals by yours." in page.text
    assert "name it with --manifest" in page.text
    assert "Base" not in page.text


def test_metrics_are_shown_beside_the_base(tmp_path: Path) -> None:
    folder = _evaluation_folder(tmp_path / "e", [("One two.", "one two"), ("Three.", "three")])
    result = json.loads((folder / "result.json").read_text())
    scored = {"value": 64.25, "ci95": [60.5, 70.5], "counted": 9, "out_of": 14, "unit": "%",
              "better": "lower", "base": 12.25}  # fmt: skip
    absent = {"value": None, "ci95": None, "unit": "%", "better": "lower", "reason": "no capitals"}
    result["metrics"] = {"punctuation_error_rate": scored, "case_error_rate": absent}
    _write_json(folder / "result.json", result)
    page = _report(folder)[1]
    assert not page.faults and "metrics" in [section.get("id") for section in page.all("section")]
    for figure in ("Punctuation error rate, %", "12.25", "64.25", "+52.00", "60.50 to 70.50",
                   "9 of 14", "lower is better"):  # fmt: skip
        assert figure in page.text, figure
    assert "Case error rate" not in page.text
    for odd in ("x", {"a": 3}, {"a": {"value": "x"}}, {EVIL: {"value": 1, "counted": "x"}}):
        _write_json(folder / "result.json", result | {"metrics": odd})
        assert not _report(folder)[1].faults


def test_key_terms_are_shown_beside_the_adapter_and_both(tmp_path: Path) -> None:
    folder = _evaluation_folder(tmp_path / "e", [("one two", "one to"), ("three", "three")])
    result = json.loads((folder / "result.json").read_text())
    names = ("base", "key terms", "adapter", EVIL)
    result["keyterms"] = {
        "boost": 2.5, "terms": 7,
        "arms": [
            {"arm": name, "wer": 40.0 - 9.25 * index, "spoken": 8, "recalled": 2 * index,
             "recall": 25.0 * index, "false_alarms": index, "false_alarms_per_1000_words": 1.5,
             "change": {"difference": -9.25 * index, "ci95": [-12.0, -3.0]}}
            for index, name in enumerate(names)
        ],
    }  # fmt: skip
    _write_json(folder / "result.json", result)
    _result, page = _report(folder)
    assert not page.faults and "key-terms" in [section.get("id") for section in page.all("section")]
    for figure in ("40.00", "21.50", "−18.50", "−12.00 to −3.00", "4 of 8", "50.0", "7 terms",
                   "boost 2.5", "1.5 in 1,000 words", EVIL):  # fmt: skip
        assert figure in page.text, figure
    # An odd record takes the table away, not the page.
    for odd in ("x", [], {"arms": "x"}, {"arms": [3, {}]}, {"arms": [{"wer": "x", "change": 1}]}):
        _write_json(folder / "result.json", result | {"keyterms": odd})
        assert _report(folder)[1].text


def test_a_run_with_an_evaluation_inside_stays_a_run(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "a")
    _evaluation_folder(run / "eval" / "test", [("one two", "one to")])
    result, page = _report(run)
    assert result.kind == "run"
    assert all("no manifest" in line for line in result.missing)
    assert "50.00" in page.text


def test_named_manifest_gives_sound(tmp_path: Path) -> None:
    folder = _evaluation_folder(tmp_path / "e", [("one two", "one to")])
    manifest = tmp_path / "far" / "away" / "test.jsonl"
    _write_lines(manifest, [{"id": "u0", "audio": "a.wav", "text": "one two"}])
    _tone(manifest.parent / "a.wav", 0.4)
    assert _report(folder)[0].num_clips == 0
    result, page = _report(folder, manifest=manifest)
    assert result.num_clips == 1
    assert page.all("audio")[0]["src"].startswith("data:audio/")
    with pytest.raises(RequestError, match="no such manifest"):
        _report(folder, manifest=tmp_path / "none.jsonl")


def test_voices_are_in_a_report_only_if_asked_for(tmp_path: Path) -> None:
    folder = _demo_folder(tmp_path / "demo")
    result, page = _report(folder, with_audio=False)
    assert result.num_clips == 0 and not page.all("audio") and result.missing == ()
    assert "add --audio" in page.text


def test_a_folder_that_was_moved_keeps_its_sound(tmp_path: Path) -> None:
    manifest = tmp_path / "old" / "data" / "dev" / "manifest.jsonl"
    _write_lines(manifest, [{"id": "u0", "audio": "a.wav", "text": "one two three"}])
    _tone(manifest.parent / "a.wav", 0.4)
    run = _run_folder(tmp_path / "old" / "run")
    record = json.loads((run / "run.json").read_text())
    record["settings"]["data"]["dev"] = str(manifest)
    record["data"] = {"dev": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    _write_json(run / "run.json", record)
    (tmp_path / "old").rename(tmp_path / "new")
    assert _report(tmp_path / "new" / "run")[0].num_clips == 1


# --- safe to open


def test_html_in_texts_and_names_is_text(tmp_path: Path) -> None:
    folder = tmp_path / "a<b>&'"
    _run_folder(folder, dev=[(EVIL, f"{EVIL} <b>"), (f"x {EVIL}", EVIL)])
    record = json.loads((folder / "run.json").read_text())
    record |= {"base": {"name": EVIL}, "status": EVIL, "command": ["m", "train", EVIL]}
    record |= {"sources": {"model": EVIL}, "versions": {EVIL: EVIL}, "remarks": [EVIL]}
    record["settings"][EVIL] = EVIL
    _write_json(folder / "run.json", record)
    lines = (folder / "eval" / "dev.jsonl").read_text().replace('"ann"', json.dumps(EVIL))
    (folder / "eval" / "dev.jsonl").write_text(lines)
    page = _report(folder)[1]
    assert page.all("img") == []
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert EVIL in page.text


def test_nothing_is_loaded_and_only_one_script_may_run(tmp_path: Path) -> None:
    page = _report(_demo_folder(tmp_path / "demo"))[1]
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    digest = hashlib.sha256(page.scripts[0].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_the_home_folder_is_not_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = write_report(_run_folder(tmp_path / "a"), None, SilentProgress())
    text = result.report.read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "~/<wbr>dev.<wbr>jsonl" not in text
    assert "~/<wbr>a/<wbr>dev.<wbr>jsonl" in text


def test_size_is_bounded(tmp_path: Path) -> None:
    """Long noise, long transcripts, many speakers, many steps: all at once."""
    run = _run_folder(tmp_path / "a", steps=3000)
    long = " ".join(f"word{n}" for n in range(700))
    records = []
    manifest = []
    for index in range(400):
        text = long if index < 8 else "one two three"
        item = score_utterance(f"u{index}", text, "x " + text[::-1], SPELLED, speaker=f"s{index}")
        records.append(item.to_record())
        manifest.append({"id": f"u{index}", "audio": "long.wav", "text": text})
    _tone(run / "long.wav", 29.5)
    _write_lines(run / "dev.jsonl", manifest)
    _write_lines(run / "eval" / "dev.jsonl", records)
    for number in range(12):
        scored = [json.loads(line) for line in json.dumps(records[0]).splitlines()]
        _write_lines(run / "eval" / f"more{number}" / "hypotheses.jsonl", scored)
    record = json.loads((run / "run.json").read_text())
    record["settings"]["x"] = {f"k{n}": "v" * 1000 for n in range(400)}
    _write_json(run / "run.json", record)
    result, page = _report(run, manifest=run / "dev.jsonl")
    assert result.num_bytes < MAX_BYTES
    assert result.num_clips > 3
    assert "The 200 with the most errors of 400." in page.text
    assert "more words" in page.text


def test_sound_gives_way_to_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = _demo_folder(tmp_path / "demo")
    full, _ = _report(demo)
    monkeypatch.setattr("moonshine_tune.report.page.MAX_BYTES", full.num_bytes - 1)
    smaller, page = _report(demo)
    assert smaller.num_bytes < full.num_bytes
    assert 0 < smaller.num_clips < full.num_clips
    assert "left out to keep this file small" in page.text


def test_sound_beyond_the_budget_is_left_out_with_a_reason(tmp_path: Path) -> None:
    _tone(tmp_path / "a.wav", 2.0)
    _tone(tmp_path / "long.wav", 31.0)
    first = Utterance("a", tmp_path / "a.wav")
    box = EmbeddedClips(40_000)
    clips = [box.embed(first) for _ in range(20)]
    assert sum(len(clip.source) for clip in clips) <= 40_000
    assert box.embedded == sum(bool(clip.source) for clip in clips) < 20
    assert clips[-1].reason == "left out to keep this file small"
    assert "30 s" in box.embed(Utterance("l", tmp_path / "long.wav")).reason
    assert box.embed(Utterance("n", tmp_path / "none.wav")).reason == "no such recording"
    assert box.embed(None).reason == "no recording found"


# --- damaged folders


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.jsonl", "adapter/selection.json", "eval/dev.jsonl"]
)
def test_a_missing_part_is_named(tmp_path: Path, name: str) -> None:
    run = _run_folder(tmp_path / "a")
    (run / name).unlink()
    result, page = _report(run)
    assert f"{name} is not there" in result.missing
    assert f"{name} is not there" in page.text


def test_each_missing_part_of_a_demo_is_named(tmp_path: Path) -> None:
    demo = _demo_folder(tmp_path / "demo")
    (demo / "demo.json").unlink()
    (demo / "eval" / "domain-base-runtime" / "result.json").unlink()
    (demo / "eval" / "canary-base-torch" / "hypotheses.jsonl").unlink()
    for file in (demo / "eval" / "canary-adapted-runtime").iterdir():
        file.unlink()
    (demo / "eval" / "canary-adapted-runtime").rmdir()
    result, page = _report(demo)
    assert set(result.missing) == {
        "demo.json is not there",
        "eval/domain-base-runtime/result.json is not there",
        "eval/canary-base-torch/hypotheses.jsonl is not there",
        "eval/canary-adapted-runtime is not there",
    }
    assert page.text.count("57.14") >= 2  # counted again where result.json is gone
    assert "training completes" in page.text  # the run's gates where the demo's are gone


def test_half_written_files(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "a")
    for name in ("run.json", "metrics.jsonl", "eval/dev.jsonl"):
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: len(data) - 20] + b"\xff\xfe")
    result, page = _report(run)
    assert any(line.startswith("run.json is damaged or not JSON") for line in result.missing)
    assert any(line.startswith("metrics.jsonl: kept 31 of 32 lines") for line in result.missing)
    assert any(line.startswith("eval/dev.jsonl: kept 1 of 2 lines") for line in result.missing)
    assert "Training loss" in page.text


@pytest.mark.parametrize(
    "content",
    [
        "null", "[]", "3", '"x"', "{}", '{"settings": 3, "result": [], "versions": "x"}',
        '{"settings": {"train": 5}, "sources": [], "base": "tiny", "data": 7, "git": 1}',
        '{"result": {"baseline": 3, "best": {"dev_wer": "x"}, "seconds": -5, "steps": "9"}}',
        '{"result": {"seconds": 1e999, "first_loss": NaN, "last_loss": Infinity}, "status": {}}',
        '{"normalizer": "from-the-future", "command": {"a": 1}, "remarks": 3, "platform": 2}',
        '{"settings": {"data": {"dev": 3}, "select": {"canary_bound": "x"}}, "adapter": []}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_odd_records_do_not_stop_it(tmp_path: Path, content: str) -> None:
    run = _run_folder(tmp_path / "a")
    (run / "run.json").write_text(content)
    page = _report(run)[1]
    assert "Training loss" in page.text
    _no_odd_numbers(run / "report.html")


def test_odd_metrics_do_not_stop_it(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "a", steps=3)
    odd = [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e300",
        "-1e300",
        "null",
        '"x"',
        "[]",
        "true",
        "1" * 400,
    ]
    with (run / "metrics.jsonl").open("a") as file:
        for index, value in enumerate(odd):
            file.write(f'{{"step": {index + 4}, "loss": {value}, "dev_wer": {value}, '
                       f'"step_seconds": {value}}}\n')  # fmt: skip
            file.write(f'{{"step": {value}, "loss": 1.0}}\n')
        file.write('5\n"x"\n[]\n')
    page = _report(run)[1]
    _no_odd_numbers(run / "report.html")
    assert "values were not finite" in page.text


def test_odd_hypotheses_do_not_stop_it(tmp_path: Path) -> None:
    good = score_utterance("u", "one two", "one", SPELLED).to_record()
    odd = [{}, 5, None, [], good | {"id": 3}, good | {"substitutions": -1},
           good | {"reference_words": 1.5}, good | {"reference": None}]  # fmt: skip
    surrogate = good | {"id": "s", "reference": "one \ud800 two", "hypothesis": "\u202eone\x00"}
    empty = good | {"id": "e", "reference": "", "hypothesis": "", "speaker": 7}
    _write_lines(tmp_path / "e" / "hypotheses.jsonl", [*odd, good, good, surrogate, empty])
    result, page = _report(tmp_path / "e")
    kept = f"hypotheses.jsonl: kept 4 of {len(odd) + 4} lines"
    assert any(line.startswith(kept) for line in result.missing)
    assert "result.json is not there" in result.missing
    assert "3 utterances" in page.text  # one line twice


def test_folders_with_nothing_known_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, message in (
        ("empty", "nothing here to report on"),
        ("none", "no such folder"),
        ("file", "a file, not a folder"),
    ):
        with pytest.raises(RequestError, match=message):
            write_report(tmp_path / name, None, SilentProgress())
    run = _run_folder(tmp_path / "a")
    with pytest.raises(RequestError, match="a folder, not a file"):
        write_report(run, tmp_path / "empty", SilentProgress())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["rm", "train", "--out", "x; rm -rf ~"], "moonshine-tune train --out 'x; rm -rf ~'"),
        (["moonshine-tune", "train", "$(id)"], "moonshine-tune train '$(id)'"),
        (["moonshine-tune", "train", "a\x1b[201~\nrm -rf ~"], None),
        (["moonshine-tune", "train", "a\nrm -rf ~"], None),
        (["moonshine-tune", "train", "a" * 5000], None),
        (["sh", "-c", "rm -rf ~"], None),
    ],
)
def test_a_command_to_copy_is_one_of_this_program_and_safe_to_paste(
    tmp_path: Path, words: list[str], shown: str | None
) -> None:
    run = _run_folder(tmp_path / "a")
    record = json.loads((run / "run.json").read_text())
    _write_json(run / "run.json", record | {"command": words})
    _, page = _report(run)
    assert ("The command of this run" in page.text) == (shown is not None)
    assert shown is None or shown in page.text
    assert "rm -rf ~" not in page.text.replace("'x; rm -rf ~'", "")


def test_the_password_in_an_old_record_is_not_shown(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "a")
    record = json.loads((run / "run.json").read_text())
    url = "postgresql://me:S3CRETpw@host/db"
    record |= {"command": ["moonshine-tune", "ablate", "--storage", url], "error": url}
    _write_json(run / "run.json", record)
    result, _ = _report(run)
    assert "S3CRETpw" not in result.report.read_text()


def test_sound_that_changed_since_the_score_is_left_out(tmp_path: Path) -> None:
    manifest = tmp_path / "test.jsonl"
    _write_lines(manifest, [{"id": "u0", "audio": "a.wav", "text": "one two"}])
    _tone(tmp_path / "a.wav", 0.4)
    folder = _evaluation_folder(tmp_path / "e", [("one two", "one to")])
    path = folder / "hypotheses.jsonl"
    line = json.loads(path.read_text())
    sound = recording_fingerprint(Utterance("u0", tmp_path / "a.wav"))
    _write_lines(path, [line | {"recording": sound}])
    assert _report(folder, manifest=manifest)[0].num_clips == 1
    _tone(tmp_path / "a.wav", 0.5)
    result, page = _report(folder, manifest=manifest)
    assert result.num_clips == 0 and "the recording has changed since it was scored" in page.text


def test_an_adapter_that_changed_is_named(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "a")
    adapter = run / "adapter"
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"learned")
    write_selection(adapter, SelectionRecord.read(adapter / "selection.json"))
    before = _report(run)[0].missing
    (adapter / "adapter_model.safetensors").write_bytes(b"edited")
    result, page = _report(run)
    (added,) = set(result.missing) - set(before)
    assert added.startswith("adapter: adapter_model.safetensors changed after the training")
    assert "of other weights" in page.text


def test_an_evaluation_of_an_earlier_adapter_in_the_run_is_named(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "a")
    (run / "adapter" / "adapter_config.json").write_text("{}")
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"learned")
    folder = _evaluation_folder(run / "eval" / "test", [("one two", "one to")])
    path = folder / "result.json"
    digest = hashlib.sha256(b"learned").hexdigest()
    _write_json(path, json.loads(path.read_text()) | {"adapter_sha256": digest})
    assert not any("another adapter" in line for line in _report(run)[0].missing)
    weights.write_bytes(b"learned further")
    (line,) = [line for line in _report(run)[0].missing if "another adapter" in line]
    assert line.startswith("eval/test: of another adapter than the run holds now")
