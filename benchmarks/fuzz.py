"""Damaged and hostile files: what each reader does with them, and how long it takes at most.

    python -m benchmarks.fuzz [--inputs 10000] [--seed 0] [--only yaml archive] [--keep FOLDER]

Each reader gets so many inputs: right files that are changed at random, and values that have broken
a reader before. A reader may read an input or refuse it with an error of this program. Anything
else is a fault of the program. Prints one line of JSON; exit code 1 where there was a fault, or an
input took 2 s of CPU time, which does not depend on what else runs. `--keep` saves those inputs.
"""

import argparse
import gzip
import io
import json
import random
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import TuneError

MAX_SECONDS = 2.0
Make = Callable[[random.Random], bytes]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A kind of file: how it is named, made and read."""

    name: str
    ending: str
    make: Make
    read: Read


@dataclass
class Outcome:
    """What a reader did with all inputs."""

    read: int = 0
    refused: int = 0
    longest_s: float = 0.0
    slow: int = 0
    faults: list[str] = field(default_factory=list)


# --- inputs

_NUMBERS = ("9" * 401, "-" + "9" * 5000, "1e999", "-0", "0x1f", "1_0", "1:59:59", "NaN", "Infinity",
            "-Infinity", ".inf", ".nan", "1e-400", "0.1e", "00012", "٣", "1,5")  # fmt: skip
_TEXTS = ("\\ud800", "\\udfff\\ud800", "\\u0000", "\x00", "\x1b[31m", "\u202e", "\ufeff", "é", "𝔸",
          "e\u0301", "a" * 3000, "\r\n", "\t", "\\", "'", '"', "`id`", "$(id)", "{{7*7}}",
          "../../x", "/dev/zero", "~", "|", "con", "\udc80")  # fmt: skip
_YAML = ("!!timestamp foo", "2001-99-99", "!!binary x", "!!python/object:os.system x", "!!int foo",
         "!!float x", "!!bool x", "!!set {a}", "*a", "&a [*a]", "? [a]", "<<: {a: 1}", "<<: 1",
         "---", "...", "- ", "{", "[", "|", ">", "@", "`", "!", "~", "=", "null", "\t", "%TAG",
         '"\\U00110000"', '"\\xd"')  # fmt: skip
_JSON = ("[" * 3000, "{" * 200, "]" * 50, '{"a":' * 300, "null", "true", '""', "[]", "{}", ",", ":",
         "/**/", "'a'")  # fmt: skip


def _damage(rng: random.Random, data: bytes, nasty: Sequence[str]) -> bytes:
    """The bytes with a few changes: flipped, cut, repeated, moved, or replaced by a nasty value."""
    result = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(result) + 1)
        span = rng.randrange(1, 40)
        kind = rng.randrange(6)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del result[at : at + span]
        elif kind == 2:
            result[at:at] = result[at : at + span] * rng.choice((1, 2, 40, 400))
        elif kind == 3:
            result[at : at + span] = rng.randbytes(span)
        elif kind == 4 and rng.random() < 0.1:
            del result[at:]
        else:
            word = rng.choice(nasty).encode("utf-8", "surrogatepass")
            # In the place of a value, where it is read as one.
            start = max(result.rfind(b":", 0, at), result.rfind(b"[", 0, at)) + 1
            end = min(
                (
                    found
                    for mark in (b",", b"}", b"\n", b"]")
                    if (found := result.find(mark, start)) > 0
                ),
                default=len(result),
            )
            place = slice(start, end) if rng.random() < 0.7 else slice(at, at)
            result[place] = b" " + word
    return bytes(result)


def _bomb(rng: random.Random) -> bytes:
    """YAML whose aliases repeat a list again and again."""
    depth, width = rng.randrange(2, 12), rng.randrange(2, 12)
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines).encode()


def _deep(rng: random.Random) -> bytes:
    """One kind of nesting, some thousand levels deep."""
    levels = rng.choice((10, 40, 70, 500, 3000))
    start = rng.choice(("[", "{a: ", '{"a":', "- ", "? ", "a: [", "!!seq [", "&a ["))
    return (start * levels).encode() + rng.choice((b"", b"1", b"]" * levels, b"}" * levels))


def _yaml(*texts: str) -> Make:
    def make(rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.03:
            return _bomb(rng)
        if kind < 0.06:
            return _deep(rng)
        if kind < 0.07:
            return (
                rng.choice(("a\n", "# \n", "a: b\n", "- 1\n", "x ", '"\\x41')) * 60_000
            ).encode()
        return _damage(rng, rng.choice(texts).encode(), (*_YAML, *_NUMBERS, *_TEXTS))

    return make


def _json(*values: Any) -> Make:
    def make(rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.03:
            return _deep(rng)
        if kind < 0.035:
            return json.dumps({"text": rng.choice("a[{\\é ") * 2_000_000}).encode()
        text = json.dumps(rng.choice(values), ensure_ascii=rng.random() < 0.5)
        return _damage(rng, text.encode(), (*_JSON, *_NUMBERS, *_TEXTS))

    return make


def _lines(make: Make) -> Make:
    return lambda rng: b"\n".join(make(rng) for _ in range(rng.randrange(1, 6)))


def _archive(rng: random.Random) -> bytes:
    """A tar of odd members, damaged before or after it is compressed."""
    target = io.BytesIO()
    archive_format = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=target, mode="w", format=archive_format) as tar:
        many = rng.random() < 0.005
        for number in range(20_000 if many else rng.randrange(6)):
            name = rng.choice(
                (
                    "p/a",
                    "p/b/c",
                    "p/../x",
                    "/x",
                    "p/" + "n" * 90 + "/" + "n" * 60,
                    "q/a",
                    "p/é",
                    "C:/x",
                )
            )
            member = tarfile.TarInfo(f"p/{number}" if many or rng.random() < 0.7 else name)
            member.type = rng.choice((tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE,
                                      tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE,
                                      tarfile.GNUTYPE_SPARSE, b"Z"))  # fmt: skip
            member.linkname = "a" if member.issym() or member.islnk() else ""
            content = b"" if many else rng.choice((b"", b"x", b"0" * 5000))
            member.size = len(content)
            if archive_format == tarfile.PAX_FORMAT and rng.random() < 0.2:
                keys = ("size", "mtime", "path", "GNU.sparse.major", "hdrcharset")
                values = ("-1", "9" * 50, "x", "1e9", "BINARY")
                member.pax_headers = {rng.choice(keys): rng.choice(values)}
            tar.addfile(member, io.BytesIO(content))
    data = bytearray(target.getvalue())
    if rng.random() < 0.3 and len(data) > 512:
        # Sizes: octal digits, or a number in binary, which may be negative.
        at = 512 * rng.randrange(len(data) // 512) + 124
        data[at : at + 12] = rng.choice(
            (b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"77777777777\0", b"-0000000001\0")
        )
        header = data[at - 124 : at + 388]
        header[148:156] = b" " * 8
        data[at + 24 : at + 32] = f"{sum(header):06o}\0 ".encode()
    if rng.random() < 0.02:
        data += bytes(rng.choice((1 << 20, 1 << 26)))
    packed = gzip.compress(bytes(data), 1)
    return _damage(rng, packed, _TEXTS) if rng.random() < 0.3 else packed


def _wav(rng: random.Random) -> bytes:
    """A short recording with a damaged header."""
    rate, channels = rng.choice((16_000, 8_000, 44_100, 0, 1, 2**31)), rng.choice((1, 1, 2, 0, 300))
    samples = rng.randbytes(rng.choice((0, 2, 3200, 3201)))
    form = rng.choice((1, 3, 6, 17, 0xFFFE)).to_bytes(2, "little") + channels.to_bytes(2, "little")
    form += rate.to_bytes(4, "little") + (rate * 2 % 2**32).to_bytes(4, "little") + b"\2\0\x10\0"
    size = rng.choice((len(samples), 0, 2**31 - 1, 2**32 - 1, len(samples) * 9)).to_bytes(
        4, "little"
    )
    data = b"RIFF" + rng.randbytes(4) + b"WAVEfmt \x10\0\0\0" + form + b"data" + size + samples
    starts = (
        b"fLaC",
        b"OggS",
        b"ID3\3\0\0\x7f\x7f\x7f\x7f",
        b"FORM",
        b"caff",
        b"\xff\xfb\x90\0",
        b".snd",
    )
    if rng.random() < 0.2:
        data = rng.choice(starts) + rng.randbytes(rng.choice((4, 400)))
    return _damage(rng, data, _TEXTS)


def _table(rng: random.Random) -> bytes:
    mark = rng.choice((",", ";", "\t", "|"))
    rows = [
        ["audio", "text", "speaker"],
        ["a.wav", 'he said "no"', "anna"],
        ["b.wav", "two words", "ben"],
    ]
    text = "\n".join(mark.join(row) for row in rows * rng.choice((1, 1, 30)))
    if rng.random() < 0.01:
        text += '"' + "x" * 300_000
    encoding = rng.choice(("utf-8", "utf-8", "utf-16", "latin-1", "utf-8-sig"))
    return _damage(rng, text.encode(encoding), (*_TEXTS, *_NUMBERS))


_SRT = """1
00:00:00,500 --> 00:00:01,250
one two

2
00:00:01,500 --> 00:00:01,900
three
"""
_VTT = "WEBVTT\n\n00:00.500 --> 00:01.250\n<v Anna>one two\n"
_ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.50,0:00:01.25,Default,,0,0,0,,one {\\i1}two
"""
_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "speech"
        xmin = 0
        xmax = 2
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2
            text = "one two"
"""
_ELAN = """<?xml version="1.0"?><ANNOTATION_DOCUMENT><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="900"/>
</TIME_ORDER><TIER TIER_ID="a"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="x"
TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>one</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
_LABELS = "0.0\t1.5\tone two\n1.5\t1.9\tthree\n"
_CLOCK = "[00:00] one\n[00:01] two\nAnna (0:01): three\n"


def _text(*texts: str) -> Make:
    repeated = (_SRT, _LABELS, "[00:01] a\n", "<a>", "[", "{", "a b ")

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.01:
            return (rng.choice(repeated) * 3000).encode()
        nasty = (*_TEXTS, *_NUMBERS, "-->", "WEBVTT", "<v a>", "\n\n")
        return _damage(rng, rng.choice(texts).encode(), nasty)

    return make


def _tokenizer(rng: random.Random) -> bytes:
    return _damage(rng, bytes(b for n in range(260) for b in (1, n % 256)), _TEXTS)


# A tenth of a second, for tables that name recordings.
_TONE = (
    b"RIFF\xa4\x0c\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\x80\x0c\0\0"
    + bytes(range(1, 101)) * 32
)


# --- readers


def readers() -> tuple[Reader, ...]:
    """All readers, with right files of their kind."""
    import numpy as np
    import soundfile

    from moonshine_tune.ablation.space import read_space
    from moonshine_tune.audio.io import audio_info, load_audio
    from moonshine_tune.config.resolve import (
        parse_assignments,
        read_settings_file,
        resolve_settings,
    )
    from moonshine_tune.core.progress import SilentProgress
    from moonshine_tune.corpus.manifest import scan_manifest, write_manifest
    from moonshine_tune.importers.base import ImportRequest
    from moonshine_tune.importers.run import import_data
    from moonshine_tune.plan.schema import read_plan
    from moonshine_tune.release.archive import unpack
    from moonshine_tune.report.reading import read_report_input
    from moonshine_tune.runs.records import EvaluationRecord, RunRecord
    from moonshine_tune.runs.summary import read_scored
    from moonshine_tune.runtime.tokenizer import read_pieces

    def settings(path: Path) -> object:
        return resolve_settings([("file", read_settings_file(path))])

    def assignment(path: Path) -> object:
        text = path.read_bytes()[:2000].decode("utf-8", "surrogateescape")
        return resolve_settings([("--set", parse_assignments([f"train.steps={text}"]))])

    def manifest(path: Path) -> object:
        scan = scan_manifest(path, check_files=False)
        write_manifest(path.with_name("again.jsonl"), scan.utterances)
        return scan

    def archive(path: Path) -> object:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            return unpack(path, Path(folder))

    def report(path: Path) -> object:
        folder = path.parent / "report"
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_bytes(path.read_bytes())
        (folder / "hypotheses.jsonl").write_bytes(path.read_bytes())
        return read_report_input(folder)

    def table(path: Path) -> object:
        out = path.with_name("imported.jsonl")
        return import_data(ImportRequest(path, out, force=True), SilentProgress())

    def beside(path: Path) -> object:
        folder = path.parent / "beside"
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / "a.wav", np.zeros(32_000), 16_000)
        transcript = folder / path.name
        transcript.write_bytes(path.read_bytes())
        out = path.with_name("imported.jsonl")
        try:
            return import_data(ImportRequest(folder, out, force=True), SilentProgress())
        finally:
            transcript.unlink()

    def audio(path: Path) -> object:
        return audio_info(path), load_audio(path)

    run = {
        "command": ["moonshine-tune", "train"],
        "settings": {"model": "tiny"},
        "status": "finished",
        "created": "2024-01-01",
        "result": {"steps": 3, "best": {"dev_wer": 1.5, "step": 2}},
    }
    scores = {"wer": 1.5, "cer": 1, "ci95": [1.0, 2.0], "normalizer": "basic-1", "worst": []}
    counts = {"substitutions": 0, "deletions": 1, "insertions": 0, "reference_words": 2,
              "character_errors": 4, "reference_characters": 7}  # fmt: skip
    scored = {"id": "u", "reference": "one two", "hypothesis": "one", **counts}
    span = {"start": 0.01, "end": 0.09}
    words = [{"word": "one", "start": 0.5, "end": 1.0}]
    whisper = {"text": "one two", "segments": [{"text": "one two", "words": words, **span}]}
    segments = [{"utf8": "one"}, {"utf8": " two", "tOffsetMs": 100}]
    youtube = {"events": [{"tStartMs": 500, "dDurationMs": 700, "segs": segments}]}
    region = {"id": "r", "value": {"text": ["one"], **span}}
    task = {"data": {"audio": "/data/upload/1/a.wav"}, "annotations": [{"result": [region]}]}
    line = {"id": "u1", "audio": "a.wav", "text": "one two", "speaker": "anna", **span}
    data = "data: {train: a.jsonl, test: b.jsonl}"
    plan = f"name: p\n{data}\nphases:\n  doctor:\n  train:\n    model: tiny\n"
    rates = "{low: 0.001, high: 0.1, log: true}"
    space = f"preset: tiny\nspace:\n  adapter.rank: [4, 8]\n  train.learning_rate: {rates}\n"
    config = "model: tiny\ntrain: {steps: 10, learning_rate: 3.0e-4}\ndata:\n  train: a.jsonl\n"
    return (
        Reader("settings", "settings.yaml", _yaml(config), settings),
        Reader("assignment", "set.txt", _yaml("10", "[1, 2]", "{a: 1}", "3e-4"), assignment),
        Reader("plan", "plan.yaml", _yaml(plan), lambda path: read_plan(str(path))),
        Reader("space", "space.yaml", _yaml(space), lambda path: read_space(str(path))),
        Reader("run", "run.json", _json(run), RunRecord.read),
        Reader("result", "result.json", _json(scores), EvaluationRecord.read),
        Reader("report", "result.json", _json(scores, run, scored), report),
        Reader("hypotheses", "hypotheses.jsonl", _lines(_json(scored)), read_scored),
        Reader("manifest", "train.jsonl", _lines(_json(line)), manifest),
        Reader("archive", "p.tar.gz", _archive, archive),
        Reader("table", "table.csv", _table, table),
        Reader("table of JSON lines", "table.jsonl", _lines(_json(line)), table),
        Reader("table in JSON", "table.json", _json([task], [line], {"a": line}), table),
        Reader("captions", "a.srt", _text(_SRT, _VTT, _ASS), beside),
        Reader("TextGrid", "a.TextGrid", _text(_TEXTGRID), beside),
        Reader("ELAN", "a.eaf", _text(_ELAN), beside),
        Reader("text", "a.txt", _text(_LABELS, _CLOCK, _SRT, "one two\n"), beside),
        Reader("transcript in JSON", "a.json", _json(whisper, youtube), beside),
        Reader("audio", "a.wav", _wav, audio),
        Reader("tokenizer", "tokenizer.bin", _tokenizer, read_pieces),
    )


def check(reader: Reader, data: bytes, path: Path, outcome: Outcome) -> None:
    """Give one input to its reader and note what happens."""
    path.write_bytes(data)
    start = time.process_time()
    try:
        reader.read(path)
        outcome.read += 1
    except TuneError as error:
        outcome.refused += 1
        try:
            str(error).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            outcome.faults.append(f"the message cannot be shown: {str(error)!r}")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome.faults.append(
            f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"[:400]
        )
    seconds = time.process_time() - start
    outcome.longest_s = max(outcome.longest_s, seconds)
    outcome.slow += seconds >= MAX_SECONDS


def main() -> int:
    """Run all readers and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes: dict[str, Outcome] = {}
    for reader in readers():
        if options.only and reader.name not in options.only:
            continue
        outcome = outcomes[reader.name] = Outcome()
        with tempfile.TemporaryDirectory() as name:
            for companion in ("a.jsonl", "b.jsonl", "a.wav", "b.wav"):
                (Path(name) / companion).write_bytes(_TONE if companion.endswith("wav") else b"")
            for number in range(options.inputs):
                data = reader.make(random.Random(f"{options.seed} {reader.name} {number}"))
                before = (len(outcome.faults), outcome.slow)
                check(reader, data, Path(name) / reader.ending, outcome)
                if options.keep and before != (len(outcome.faults), outcome.slow):
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{reader.name}-{number}").write_bytes(data)
        summary = f"{outcome.read} read, {outcome.refused} refused, {len(outcome.faults)} faults"
        print(f"{reader.name}: {summary}, longest {outcome.longest_s:.2f} s", file=sys.stderr)
        for fault in list(dict.fromkeys(outcome.faults))[:10]:
            print(f"  {fault}", file=sys.stderr)
    figures = {
        name: {
            "read": item.read,
            "refused": item.refused,
            "faults": len(item.faults),
            "slow": item.slow,
            "longest_s": round(item.longest_s, 3),
        }
        for name, item in outcomes.items()
    }
    passed = not any(item.faults or item.slow for item in outcomes.values())
    print(json.dumps({"inputs": options.inputs, "readers": figures, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
