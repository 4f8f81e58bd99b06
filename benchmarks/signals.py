"""Signals at random moments of every long command: is anything lost, mixed or left over?

    python -m benchmarks.signals [--signals 20] [--jobs train import export package ablate plan]

Each job is run once undisturbed. Then it is run in a folder of its own and gets SIGTERM, SIGHUP,
SIGINT or SIGKILL at a random moment of its work, and the same command (or the one that continues
it) is run to the end. Checked each time:

- the exit code is 130, or that of a job that was done before the signal came;
- what is there is complete or absent, and after any signal but SIGKILL nothing else is there;
- no record says that a dead job is running, and SIGTERM, SIGHUP and SIGINT lose no training step;
- the end is that of the undisturbed job: the same files, and for training the same losses, bit by
  bit.

A small random model (for export and package, tiny) and synthetic clips. Each command is a process
of its own: a fork of this one, which has loaded the libraries, because loading them takes longer
than the work. Prints a table; exit code 1 where a check fails.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kill_resume import steps_done
from benchmarks.small_work import save_small_model, write_clips

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
_SETTINGS = {
    "train.steps": 40, "train.batch_size": 4, "train.save_every_minutes": 1e-6,
    "select.every_steps": 10, "select.patience": 99, "adapter.sites": "all", "device.name": "cpu",
    "data.replay": "none",
}  # fmt: skip
_SPACE = "settings: {train: {steps: 8}, select: {every_steps: 4}}\nspace: {adapter.rank: [2, 4]}\n"
_PLAN = """
name: signals
data: {{train: {clips}/train.jsonl, dev: {clips}/dev.jsonl, test: {clips}/dev.jsonl}}
phases:
  first: {{kind: train, model: {model}, settings: {{train.steps: 12, device.name: cpu}}}}
"""
_PATIENCE_S = 900.0
_LIBRARIES = (
    "torch._dynamo", "transformers.models.moonshine.modeling_moonshine", "peft", "optuna",
    "moonshine_tune.training.run", "moonshine_tune.export.run", "moonshine_tune.release.package",
    "moonshine_tune.importers.run", "moonshine_tune.ablation.run", "moonshine_tune.plan.run",
)  # fmt: skip
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Job:
    """A command and how it is continued.

    Attributes:
        words: of the command, without `--out`.
        again: of the command that continues it where something of it is there.
        out: name of its output.
        lost: what a signal other than SIGKILL has lost, in words; empty for nothing.
        result: what must be as in the undisturbed job.
        states: words of a status command, after which the folder follows.
    """

    name: str
    words: list[str]
    out: str
    again: list[str] | None = None
    lost: Callable[[Path], str] = lambda out: ""
    result: Callable[[Path], Any] = lambda out: None
    states: list[str] | None = None


class _Command:
    """A command in a process of its own session."""

    def __init__(self, words: list[str], log: Path) -> None:
        self._process = _FORK.Process(target=_run_command, args=(words, log), daemon=False)
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"no end within {timeout:g} s")
        return self._process.exitcode


def _run_command(words: list[str], log: Path) -> None:
    """Be the command, with its output in a file."""
    from moonshine_tune.cli.app import run

    os.setsid()
    with log.open("ab") as file, Path(os.devnull).open("rb") as nothing:
        for stream, number in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(stream.fileno(), number)
    sys.argv[1:] = words
    sys.exit(run(words))


class Bench:
    """The jobs of a scratch folder, their undisturbed ends, and what went wrong."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.rng = work, random.Random(seed)
        os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        for name in _LIBRARIES:
            importlib.import_module(name)
        save_small_model(work / "model")
        for name, count in (("train", 24), ("dev", 4)):
            write_clips(work / "clips", name, count, 2.5)

    def start(self, words: list[str], log: Path) -> "_Command":
        """A command as a process of its own session."""
        return _Command(words, log)

    def undisturbed(self, job: Job) -> tuple[int, float, Path]:
        """Exit code, seconds of work, and output of a job that no signal reaches."""
        folder = self.work / f"{job.name}-undisturbed"
        folder.mkdir()
        process = self.start([*job.words, "--out", str(folder / job.out)], folder / "log")
        _await_work(process, folder)
        start_time = time.monotonic()
        code = process.wait(_PATIENCE_S)
        if code not in (0, 1):
            raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
        return code, time.monotonic() - start_time, folder / job.out

    def disturb(
        self, job: Job, number: signal.Signals, name: str, expected: tuple[int, float, Path]
    ) -> list[str]:
        """What is wrong after a signal and a second run; nothing where all is as it should be."""
        code, seconds, reference = expected
        folder = self.work / name
        folder.mkdir()
        out, log = folder / job.out, folder / "log"
        process = self.start([*job.words, "--out", str(out)], log)
        _await_work(process, folder)
        time.sleep(self.rng.uniform(0, seconds))
        process.send_signal(number)
        ended = process.wait(_PATIENCE_S)
        problems = list(self._after_signal(job, number, ended, code, folder))
        words = job.again if job.again is not None and _has_record(out) else job.words
        # A kill between the last file and the end leaves the lock; the next run removes it.
        is_clean = number != signal.SIGKILL or _files(folder) == _files(reference.parent)
        if not (ended in (code, -number) and self._is_done(job, out, reference) and is_clean):
            again = self.start([*words, "--out", str(out)], log).wait(_PATIENCE_S)
            if again != code:
                problems.append(f"the next run ended with {again}")
        if _files(folder) != _files(reference.parent):
            extra = sorted(_files(folder) ^ _files(reference.parent))
            problems.append(f"other files than undisturbed: {', '.join(extra[:5])}")
        elif job.result(out) != job.result(reference):
            problems.append("another result than undisturbed")
        if not problems:
            shutil.rmtree(folder)
        return problems

    def _is_done(self, job: Job, out: Path, reference: Path) -> bool:
        """Whether the signal came after the work: it may not be done again."""
        return job.again is None and _files(out) == _files(reference) and out.exists()

    def _after_signal(
        self, job: Job, number: int, ended: int, code: int, folder: Path
    ) -> Iterator[str]:
        out = folder / job.out
        if number == signal.SIGKILL:
            allowed = {-number, code}
        else:
            # After its work is done, a process ends as the system lets it.
            allowed = {130, code, -number}
            if leftovers := [name for name in _files(folder) if _is_leftover(name)]:
                yield f"left over: {', '.join(sorted(leftovers)[:5])}"
            if lost := job.lost(out):
                yield lost
        if ended not in allowed:
            yield f"exit code {ended}"
        if job.states is not None and _has_record(out):
            command = [sys.executable, "-m", "moonshine_tune", *job.states, str(out), "--json"]
            shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            if '"running"' in shown:
                yield "a dead job is shown as running"


def _await_work(process: _Command, folder: Path) -> None:
    """Wait until the process has made its lock, or ended."""
    start_time = time.monotonic()
    while len(list(folder.iterdir())) < 2 and process.poll() is None:
        if time.monotonic() - start_time > _PATIENCE_S:
            raise TimeoutError("the work did not begin")
        time.sleep(0.005)


def _files(path: Path) -> set[str]:
    """Names of all files below a path; logs and names that depend on the time are left out."""
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    parts = ("tfevents", "log", "previous", "trials.db", "locks")
    return {name for name in names if not any(part in name for part in parts)}


def _is_leftover(name: str) -> bool:
    return any(mark in name for mark in (".partial-", ".old-", ".lock"))


def _has_record(out: Path) -> bool:
    return any((out / name).is_file() for name in ("run.json", "ablation.json", "plan.json"))


def _losses(out: Path) -> list[tuple[Any, ...]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    names = ("step", "loss", "gradient_norm")
    return [tuple(r.get(n) for n in names) for r in map(json.loads, lines) if "loss" in r]


def _lost_steps(out: Path) -> str:
    """Steps that were done and are not in the saved state."""
    if not (out / "run.json").is_file():
        return ""
    status = json.loads((out / "run.json").read_text(encoding="utf-8"))["status"]
    if status == "running":
        return "run.json says running"
    state = out / "state" / "state.json"
    saved = json.loads(state.read_text(encoding="utf-8"))["step"] if state.is_file() else 0
    lost = steps_done(out) - saved
    return f"{lost} steps are lost" if lost > 0 else ""


def _states(path: Path) -> list[str]:
    records = json.loads((path / "trials.json").read_text(encoding="utf-8"))
    return sorted(record["state"] for record in records)


def _num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _size(path: Path) -> int:
    return path.stat().st_size


def _phase_states(out: Path) -> list[str]:
    phases = json.loads((out / "plan.json").read_text(encoding="utf-8"))["phases"]
    return [phase["state"] for phase in phases]


def jobs(bench: Bench, wanted: list[str]) -> Iterator[Job]:
    """The jobs; those that need a trained and exported model come with one made before."""
    work = bench.work
    chosen = [word for key, value in _SETTINGS.items() for word in ("--set", f"{key}={value}")]
    named = [word for n in ("train", "dev") for word in (f"--{n}", f"{work}/clips/{n}.jsonl")]
    train = ["train", "--model", str(work / "model"), *named, *chosen]
    run, runtime = str(work / "run"), str(work / "runtime")
    export = ["export", "--run", run]
    if {"export", "package"} & set(wanted):
        # The runtime has files of the published sizes only.
        words = ["train", "--model", "tiny", *named, "--set", "train.steps=2",
                 "--set", "data.replay=none"]  # fmt: skip
        _finish(bench, [*words, "--out", run])
    if "package" in wanted:
        _finish(bench, [*export, "--out", runtime])
    if "train" in wanted:
        yield Job("train", train, "run", ["train", "--resume"], _lost_steps, _losses,
                  ["runs", "list"])  # fmt: skip
    if "import" in wanted:
        for number in range(20):
            write_clips(work / "corpus", f"part-{number}", 100, 0.6)
        _write_table(work / "corpus")
        words = ["data", "import", str(work / "corpus"), "--table", str(work / "words.csv")]
        yield Job("import", words, "train.jsonl", result=_num_lines)
    if "export" in wanted:
        yield Job("export", export, "runtime")
    if "package" in wanted:
        words = ["package", "--run", run, "--runtime-dir", runtime, "--allow-failed-parity"]
        yield Job("package", words, "pack.tar.gz", result=_size)
    if "ablate" in wanted:
        (work / "space.yaml").write_text(_SPACE, encoding="utf-8")
        words = ["ablate", "run", "--model", str(work / "model"), *named, "--space",
                 str(work / "space.yaml"), "--sampler", "grid", "--set", "device.name=cpu",
                 "--set", "train.batch_size=4", "--set", "data.replay=none"]  # fmt: skip
        yield Job("ablate", words, "search", ["ablate", "run"], result=_states,
                  states=["ablate", "show"])  # fmt: skip
    if "plan" in wanted:
        plan = work / "plan.yaml"
        plan.write_text(_PLAN.format(clips=work / "clips", model=work / "model"), encoding="utf-8")
        yield Job("plan", ["plan", "run", str(plan)], "plan-out", result=_phase_states,
                  states=["plan", "status", str(plan), "--out"])  # fmt: skip


def _write_table(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("*.wav"))
    rows = "".join(f"{name},text of {name}\n" for name in names)
    (folder.parent / "words.csv").write_text(f"file,text\n{rows}", encoding="utf-8")


def _finish(bench: Bench, words: list[str]) -> None:
    """Run a command whose answer does not matter; random noise is not learned."""
    log = bench.work / "setup.log"
    if bench.start(words, log).wait(_PATIENCE_S) not in (0, 1):
        raise RuntimeError(log.read_text(encoding="utf-8"))


def main() -> int:
    """Disturb each job; prints what went wrong, and a table."""
    names = ["train", "import", "export", "package", "ablate", "plan"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--signals", type=int, default=20, help="of each job")
    parser.add_argument("--jobs", nargs="+", choices=names, default=names)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="signals-"))
    bench, rows, has_failed = Bench(work, options.seed), [], False
    for job in jobs(bench, options.jobs):
        expected = bench.undisturbed(job)
        failed = dict.fromkeys(_SIGNALS, 0)
        sent = dict.fromkeys(_SIGNALS, 0)
        for index in range(options.signals):
            number = _SIGNALS[index % len(_SIGNALS)]
            sent[number] += 1
            name = f"{job.name}-{index}-{number.name}"
            problems = bench.disturb(job, number, name, expected)
            failed[number] += bool(problems)
            has_failed |= bool(problems)
            for problem in problems or ["nothing lost"]:
                print(f"{name}: {problem}", file=sys.stderr, flush=True)
        passed = [f"{sent[n] - failed[n]}/{sent[n]}" for n in _SIGNALS]
        rows.append([job.name, f"{expected[1]:.1f}", *passed])
        print(f"done: {' '.join(rows[-1])}", file=sys.stderr, flush=True)
    print("| job | seconds |" + "".join(f" {number.name} |" for number in _SIGNALS))
    print("|---|---|" + "---|" * len(_SIGNALS))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if has_failed:
        print(f"kept: {work}", file=sys.stderr)
    else:
        shutil.rmtree(work)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
