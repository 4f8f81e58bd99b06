"""A new environment that holds the wheel alone, and a reader's shell and desk in it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import warm_start
from tests.documentation import ROOT, runnable

_SHIM = """#!/usr/bin/env bash
words=("$@")
if [ "$1" = train ]; then
  words+=(--set train.steps=2 --set select.every_steps=2)
  words+=(--set retain.max_clips=4 --set retain.watched_clips=2)
  # Replay audio that a block does not name takes minutes, here and in the gate of `export`.
  [[ " ${{words[*]}} " == *" --replay "* ]] || words+=(--set data.replay=none)
elif [ "$1 $2" = "data synth" ]; then
  for place in "${{!words[@]}}"; do
    if [ "${{words[place]}}" -gt 12 ] 2>/dev/null && [ "${{words[place - 1]}}" = --count ]; then
      words[place]=6
    fi
  done
elif [ "$1" = export ]; then
  # tests/demo exports with the default, which decodes more clips.
  words+=(--calibrate none)
fi
{program} "${{words[@]}}"
code=$?
# After two steps an adapter may be no better than the base, and few words of unsure speech differ
# by chance: `train`, `curve` and `export` may answer no. Their files are written all the same.
if [[ "$1" =~ ^(train|curve|export)$ ]] && [ $code = 1 ]; then code=0; fi
exit $code
"""
_NO_INDEX = re.compile(
    "NewConnectionError|ConnectTimeout|ProxyError|name resolution|Network is unreachable"
)


def install(folder: Path) -> None:
    """Build the wheel and install it with its dependencies, by the lines of the README.

    The environment is `env` in the folder. Skips the test where no package index can be reached.
    """
    constraints = str(ROOT / "constraints.txt")
    (torch,) = re.findall(r"^torch==[^ ]+", Path(constraints).read_text(), flags=re.MULTILINE)

    def call(*words: str | Path) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode and _NO_INDEX.search(done.stderr):
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, f"{words}\n{done.stderr[-3000:]}"

    # pip is a dependency of the wheel: until it is there, that of the tests installs.
    call(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", "dist", ROOT)
    pip += ("--python", folder / "env")
    (wheel,) = (folder / "dist").iterdir()
    # torch first, as `make` does: a range would pull gigabytes of CUDA packages on Linux.
    call(*pip, "install", "--no-compile", "-c", constraints, torch)
    call(*pip, "install", "--no-compile", "-c", constraints, wheel)


@contextmanager
def warm(program: Path, variables: dict[str, str]) -> Iterator[Path]:
    """A file that runs as the program does, in a process that has the libraries loaded.

    The program itself where forks of such a process are not safe, as on macOS.
    """
    if sys.platform != "linux":
        yield program
        return
    python = program.parent / "python"
    # Not below the folder of the tests: the address of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        address, client = Path(folder) / "socket", Path(folder) / "program"
        code = warm_start.CLIENT.format(python=python, address=str(address))
        client.write_text(code, encoding="utf-8")
        client.chmod(0o755)
        # Without the folder of this script on its path, where packages of tests are.
        words = [python, "-P", warm_start.__file__, address, program]
        process = subprocess.Popen(words, env=variables)
        try:
            while not address.exists():
                assert process.poll() is None, "the process with the libraries ended"
                time.sleep(0.1)
            yield client
        finally:
            process.kill()
            process.wait()


def write_shim(folder: Path, program: Path) -> Path:
    """`moonshine-tune` with little training and few sentences, in a folder for PATH."""
    folder.mkdir(parents=True)
    shim = folder / "moonshine-tune"
    shim.write_text(_SHIM.format(program=program), encoding="utf-8")
    shim.chmod(0o755)
    return folder


def write_desk(folder: Path, variables: dict[str, str]) -> None:
    """What the guides start from: recordings and tables of many voices and of one."""
    records = _recordings(folder / "recordings", "--voice-set train", variables)
    rows = [f'{name},"{item["text"]}",{item["speaker"]}' for name, item in records.items()]
    _table(folder / "words.csv", ["file,text,speaker", *rows])
    records = _recordings(folder / "my-recordings", "--voices en-us", variables)
    rows = [f'{name},"{item["text"]}",anna' for name, item in records.items()]
    _table(folder / "my-words.csv", ["file,text,speaker", *rows])
    # A recognizer that gets one word wrong everywhere.
    rows = [
        f'{name},"xyzzy {item["text"].partition(" ")[2]}","{item["text"]}",2026-05-04T10:00:00'
        for name, item in records.items()
    ]
    _table(folder / "my-log.csv", ["audio,raw_text,corrected_text,created_at", *rows])
    records = _recordings(folder / "next-week", "--voices en-us --seed 1", variables)
    rows = [f'{name},"{item["text"]}","{item["text"]}"' for name, item in records.items()]
    _table(folder / "next-log.csv", ["audio,raw_text,corrected_text", *rows])


def _recordings(folder: Path, voices: str, variables: dict[str, str]) -> dict[str, dict[str, str]]:
    """Ten synthesized recordings in a folder, by name."""
    folder.mkdir()
    synthesized = folder.with_name(f"synth-{folder.name}")
    words = f"moonshine-tune data synth --grammar atc --count 10 {voices} --out '{synthesized}'"
    shell(words, folder, variables)
    records = {}
    lines = (synthesized / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        record = json.loads(line)
        name = f"take {number:02d}.wav"
        (synthesized / record["audio"]).rename(folder / name)
        records[name] = record
    shutil.rmtree(synthesized)
    return records


def _table(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def shell(
    text: str, folder: Path, variables: dict[str, str], where: str = "", code: int = 0
) -> str:
    """What lines of a shell print, on both streams; they end with `code`."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=variables,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{where}\n{text}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def run_blocks(page: str, folder: Path, variables: dict[str, str]) -> None:
    """The shell blocks of a page, in order."""
    blocks = runnable(ROOT / page)
    assert blocks
    for block in blocks:
        shell(block.text, folder, variables, f"{page}:{block.line}")
