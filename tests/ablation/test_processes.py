"""Searches in processes of their own: killed, continued, side by side on SQLite and PostgreSQL."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.made_up_training import dies_with_rank_two

from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.results import show_ablation
from moonshine_tune.ablation.run import run_ablation
from moonshine_tune.ablation.space import read_space
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.runs.folder import RunFolder

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage"
)

_ROOT = Path(__file__).resolve().parents[2]
_SPACE = """
settings: {train: {steps: 100}, select: {every_steps: 25}}
space:
  adapter.rank: [2, 4, 8, 16]
  train.learning_rate: {low: 1e-4, high: 2e-3, log: true}
"""
# One process of a search. Each training is noted in a file that all processes append to.
_WORKER = """
import os, sys, time
from pathlib import Path
from moonshine_tune.ablation import study
from moonshine_tune.ablation.run import run_ablation
from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.space import read_space
from moonshine_tune.core.progress import SilentProgress
from tests.made_up_training import FakeTrain

folder, trials, seconds, crashes, storage, processes = sys.argv[1:]
study._ONE_MACHINE_S = study._MANY_MACHINES_S = (1, 6)

def train(resolved, out, progress, *, resume=False):
    with open(Path(folder) / "ran.txt", "a") as file:
        file.write(f"{out.name} {os.getpid()} {int(resume)}\\n")
    # Nobody ends a trial before every process has one: all of them work, however slow they start.
    while len({line.split()[1] for line in open(Path(folder) / "ran.txt")}) < int(processes):
        time.sleep(0.01)
    if out.name == crashes:
        raise ValueError("made up")
    fake_train = FakeTrain(lambda trial, step: time.sleep(float(seconds)))
    fake_train(resolved, out, progress, resume=resume)

data = {name: f"{folder}/{name}.jsonl" for name in ("train", "dev")}
result = run_ablation(
    AblateRequest(
        Path(folder) / "ablation", read_space(f"{folder}/space.yaml"), (("flag", {"data": data}),),
        trials=int(trials), workers=0, storage=storage or None,
    ),
    SilentProgress(),
    train=train,
)
print(result.stopped)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clip.wav").write_bytes(b"")
    for name in ("train", "dev"):
        # Equal data and an equal space make the same study: tests must not share one.
        line = {"id": f"{name} of {tmp_path.name}", "audio": "clip.wav", "text": "one"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "space.yaml").write_text(_SPACE)
    (tmp_path / "worker.py").write_text(_WORKER)
    return tmp_path


def _start(
    folder: Path,
    *,
    trials: int,
    seconds: float = 0.05,
    crashes: str = "",
    storage: str = "",
    processes: int = 1,
) -> "subprocess.Popen[str]":
    paths = os.pathsep.join((str(_ROOT / "src"), str(_ROOT)))
    return subprocess.Popen(
        [sys.executable, str(folder / "worker.py"), str(folder), str(trials), str(seconds), crashes,
         storage, str(processes)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip


def _end(process: "subprocess.Popen[str]") -> str:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out.strip()


def _ran(folder: Path) -> list[tuple[str, str, bool]]:
    """Trial, process and whether it continued from a saved state, of each training so far."""
    path = folder / "ran.txt"
    rows = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return [(row[0], row[1], row[2] == "1") for row in rows]


def _wait_for(folder: Path, trainings: int) -> None:
    deadline = time.monotonic() + 600
    while len(_ran(folder)) < trainings:
        assert time.monotonic() < deadline, "the search makes no progress"
        time.sleep(0.01)


def _states(folder: Path) -> dict[int, str]:
    return {trial.number: trial.state for trial in show_ablation(folder / "ablation").trials}


def test_a_search_that_is_killed_halfway_continues_and_loses_nothing(folder: Path) -> None:
    first = _start(folder, trials=6, seconds=0.15)
    _wait_for(folder, 3)
    time.sleep(0.25)  # into the third trial, after its first score
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = _states(folder)
    assert list(before.values()).count("finished") == 2
    assert before[3] == "stopped"
    assert _end(_start(folder, trials=6, seconds=0.0)) == "finished"
    assert _states(folder) == dict.fromkeys(range(1, 7), "finished")
    ran = _ran(folder)
    assert Counter(name for name, _, _ in ran) == {f"{n:04d}": 1 + (n == 3) for n in range(1, 7)}
    again = [resumed for name, _, resumed in ran if name == "0003"]
    assert again == [False, True], "the running trial continues from its saved state"


_SEARCH = """
import sys
from pathlib import Path
from moonshine_tune.ablation.run import run_ablation
from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.space import read_space
from moonshine_tune.core.progress import SilentProgress
from tests.made_up_training import waits_for_interrupt

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    data = {name: str(folder / f"{name}.jsonl") for name in ("train", "dev")}
    request = AblateRequest(
        folder / "ablation", read_space(str(folder / "space.yaml")), (("flag", {"data": data}),),
        trials=2, workers=2,
    )
    print(run_ablation(request, SilentProgress(), train=waits_for_interrupt).stopped)
"""


def test_two_workers_are_interrupted_and_continue_where_they_stopped(folder: Path) -> None:
    (folder / "worker.py").write_text(_SEARCH)
    search = _start(folder, trials=2)
    runs = [RunFolder(folder / "ablation" / "trials" / name) for name in ("0001", "0002")]
    deadline = time.monotonic() + 600
    while not all(len(run.read_metrics()) > 1 for run in runs):
        assert time.monotonic() < deadline, "the trials make no progress"
        time.sleep(0.05)
    search.send_signal(signal.SIGINT)
    assert _end(search) == "interrupted"
    assert _states(folder) == {1: "waiting", 2: "waiting"}
    assert _end(_start(folder, trials=2)) == "finished"
    assert _states(folder) == {1: "finished", 2: "finished"}
    for run in runs:
        assert [line["step"] for line in run.read_metrics()] == [0, 25, 50, 75, 100]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_that_takes_its_process_with_it_is_recorded(folder: Path, workers: int) -> None:
    (folder / "space.yaml").write_text("space: {adapter.rank: [2, 8]}\n")
    data = {name: str(folder / f"{name}.jsonl") for name in ("train", "dev")}
    result = run_ablation(
        AblateRequest(
            folder / "ablation",
            read_space(str(folder / "space.yaml")),
            (("flag", {"data": data}),),
            sampler="grid",
            workers=workers,
        ),
        SilentProgress(),
        train=dies_with_rank_two,
    )
    assert result.counts == {"finished": 1, "failed": 1}
    failed = next(trial for trial in result.trials if trial.state == "failed")
    assert failed.params == {"adapter.rank": 2}
    assert failed.remark == "its process was killed: the system may have run out of memory"


def _postgresql_programs() -> Path | None:
    initdb = shutil.which("initdb")
    folders = [Path(initdb).resolve().parent] if initdb else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL of a server of this test alone, on a socket in a folder of its own."""
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs on this machine (Debian: postgresql)")
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    user: dict[str, Any] = {}
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.getuid() == 0:
        # The server refuses to run as root.
        names = {item.pw_name for item in pwd.getpwall()}
        user = {"user": "postgres" if "postgres" in names else "nobody"}
        shutil.chown(home, user["user"])
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    server: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(
            [programs / "initdb", "-D", home / "data", "-U", "tester", "-A", "trust", "-N",
             "--locale=C", "--encoding=UTF8"],
            check=True, timeout=60, cwd=home, **quiet,
        )  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", home / "data", "-k", home, "-c", "listen_addresses=",
             "-c", "fsync=off", "-c", "max_connections=20", "-c", "shared_buffers=1MB"],
            cwd=home, **quiet,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not (home / ".s.PGSQL.5432").exists():
            assert server.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        yield f"postgresql+psycopg://tester@/postgres?host={home}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest) -> str:
    """URL of the database; empty for the SQLite file of the folder."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgresql"))


def test_two_processes_lose_and_double_no_trial(folder: Path, storage: str) -> None:
    workers = [
        _start(folder, trials=10, crashes="0004", storage=storage, processes=2) for _ in range(2)
    ]
    assert [_end(worker) for worker in workers] == ["finished", "finished"]
    states = _states(folder)
    assert states == {n: "failed" if n == 4 else "finished" for n in range(1, 11)}
    ran = _ran(folder)
    assert sorted(name for name, _, _ in ran) == [f"{n:04d}" for n in range(1, 11)]
    assert len({process for _, process, _ in ran}) == 2, "both have worked"
    trials = show_ablation(folder / "ablation").trials
    assert len({json.dumps(dict(trial.params)) for trial in trials}) == 10
    assert trials[3].remark == "ValueError: made up"


def test_one_of_two_processes_is_killed(folder: Path, storage: str) -> None:
    doomed = _start(folder, trials=6, seconds=5.0, storage=storage)
    _wait_for(folder, 1)
    other = _start(folder, trials=6, seconds=0.3, storage=storage)
    _wait_for(folder, 2)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    assert _end(other) == "finished"
    time.sleep(3)  # longer than the grace period: the next search takes up what is left
    assert _end(_start(folder, trials=6, storage=storage)) == "finished"
    assert _states(folder) == dict.fromkeys(range(1, 7), "finished")
    tried = Counter(name for name, _, _ in _ran(folder))
    assert tried == {f"{n:04d}": 1 + (n == 1) for n in range(1, 7)}


def test_no_password_reaches_the_disk(folder: Path, postgresql: str) -> None:
    url = postgresql.replace("tester@", "tester:opensesame@")
    assert _end(_start(folder, trials=1, storage=url)) == "finished"
    assert show_ablation(folder / "ablation", storage=url).best == 1
    with pytest.raises(RequestError, match="the password of the database is not recorded"):
        show_ablation(folder / "ablation")
    files = [path for path in (folder / "ablation").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"opensesame" in path.read_bytes()]
