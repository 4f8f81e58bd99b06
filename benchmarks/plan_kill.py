"""A plan that is killed at random and resumed must end in the same report, apart from times.

    python -m benchmarks.plan_kill --out plan-kill-out              # the shipped plan, killed twice
    python -m benchmarks.plan_kill --out plan-kill-out --kills 5 --seed 7

The plan runs once undisturbed and once with SIGKILL at random moments of that time, each in its own
folder. The comparison covers every text of both reports, every value of every curve and every
recording; times, dates, speeds and memory are masked. Exit code 1 where they differ.
"""

import argparse
import difflib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

_TIMED_CHARTS = ("Memory", "Speed")
_TIMED_SECTIONS = ("speed",)
_UNITS = r"(?:ms|s|min|h|MB|GB|GiB|steps/s|x)"
_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[+-]\d\d:\d\d|Z)?)?"), "DATE"),
    (re.compile(r"\d{1,2} [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC"), "DATE"),
    # Where the time went: the longest activity comes first.
    (re.compile(r"^(?:[a-z][a-z ]* \d+ s \(\d+%\)(?:, )?)+$"), "TIMES"),
    (re.compile(rf"[+−-]?\d[\d,.]*\s?{_UNITS}\b"), "TIME"),
)
_VOID = {"meta", "link", "input", "br", "img", "hr", "wbr"}
# Cells and figures that hold a bare number of seconds or bytes, by the label beside them.
_TIMED_LABELS = ("Time", "Train time", "Real-time factor")


class _Facts(HTMLParser):
    """Texts, curves and recordings of a report, one a line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._open: list[tuple[str, str]] = []
        self._figure: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {key: value or "" for key, value in attrs}
        if tag == "figure":
            self._figure = []
        if tag == "svg" and "data-points" in named:
            self._add(_values(named["data-points"]))
        if tag == "audio":
            self._add("recording " + hashlib.sha256(named.get("src", "").encode()).hexdigest())
        if tag not in _VOID:
            self._open.append((tag, named.get("id") or named.get("data-label", "")))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()
        if tag == "figure" and self._figure is not None:
            lines, self._figure = self._figure, None
            if not (lines and lines[0].startswith(_TIMED_CHARTS)):
                self.lines += lines

    def handle_data(self, data: str) -> None:
        names = {name for pair in self._open for name in pair}
        hidden = {"script", "style", "output", *_TIMED_SECTIONS, *_TIMED_LABELS}
        if data.strip() and not names & hidden:
            self._add(" ".join(data.split()))

    def _add(self, text: str) -> None:
        for mask, word in _MASKS:
            text = mask.sub(word, text)
        (self.lines if self._figure is None else self._figure).append(text)


def _values(points: str) -> str:
    """The steps and values of a chart, without the coordinates of the drawing."""
    series = json.loads(points)
    return json.dumps([[name, [point[:2] for point in drawn]] for name, drawn in series])


def facts(report: Path) -> list[str]:
    """All content of a report that does not depend on the speed of the machine."""
    parser = _Facts()
    parser.feed(report.read_text(encoding="utf-8"))
    parser.close()
    # A large figure and its unit are two texts.
    is_unit = [re.fullmatch(_UNITS, line) is not None for line in [*parser.lines[1:], ""]]
    pairs = zip(parser.lines, is_unit, strict=True)
    return ["TIME" if timed else line for line, timed in pairs]


def _command(plan: str) -> list[str]:
    return [sys.executable, "-m", "moonshine_tune", "plan", "run", plan, "--out", "plan-out"]


def _run(plan: str, folder: Path, deadlines: list[float]) -> tuple[int, list[float]]:
    """Run to the end, killed once at each deadline; the last exit code and the seconds of each."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds = []
    for deadline in [*deadlines, None]:
        start_time = time.monotonic()
        with (folder / "plan.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                _command(plan), cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(timeout=deadline)
            except subprocess.TimeoutExpired:
                # The process group: a step may have a process of its own, which a reboot ends too.
                os.killpg(process.pid, 9)
                code = process.wait()
        seconds.append(time.monotonic() - start_time)
    return code, seconds


def _report(folder: Path) -> Path:
    command = [sys.executable, "-m", "moonshine_tune", "report", "plan-out"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "plan-out" / "report.html"


def main() -> int:
    """Both runs and the comparison; prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", default="demo", help="shipped plan, or a plan file")
    parser.add_argument("--out", type=Path, default=Path("plan-kill-out"))
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    is_file = Path(options.plan).is_file()
    plan = str(Path(options.plan).absolute()) if is_file else options.plan
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10_000)
    undisturbed, killed = options.out / "undisturbed", options.out / "killed"
    code, (seconds,) = _run(plan, undisturbed, [])
    print(f"undisturbed: exit code {code}, {seconds:.0f} s")
    rng = random.Random(seed)
    ends = sorted(seconds * rng.uniform(0.05, 0.95) for _ in range(options.kills))
    lasts = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    code_killed, parts = _run(plan, killed, lasts)
    times = ", ".join(f"{value:.0f}" for value in parts)
    kills = times.rpartition(", ")[0]
    print(f"killed after {kills} s (seed {seed}): exit code {code_killed}, {times} s")
    before, after = facts(_report(undisturbed)), facts(_report(killed))
    changes = [
        line
        for line in difflib.unified_diff(before, after, "undisturbed", "killed", lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    print(f"{len(before)} facts in the report, {len(changes)} lines differ")
    print("\n".join(changes[:40]))
    return int(bool(changes) or code != code_killed)


if __name__ == "__main__":
    sys.exit(main())
