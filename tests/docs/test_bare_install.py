"""The wheel alone in a new environment, and a reader who follows the README in it.

Every other test runs in an environment that has all extras and the tools of development. Here the
wheel is built and installed with its own dependencies only, by the lines of the README. The shell
blocks of the README are run there, each command a new process, and then every command that they
leave out. `test_guides.py` runs the blocks of the guides.

`moonshine-tune` is a shim on PATH that shortens training to two steps and synthesis to a few
sentences.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from tests.bare_install import run_blocks, shell
from tests.documentation import ROOT, runnable

from moonshine_tune.cli.app import app
from moonshine_tune.demo.data import TWO_CITIES_SPANS
from moonshine_tune.registry.wheel import WheelAssets

pytestmark = [pytest.mark.real_model, pytest.mark.takes_minutes]

# What the documentation does not run, on the results of the README's blocks.
_REMAINING = """
settings
settings train.steps
estimate --model tiny --clip-s 5 --budget-gib 64 --set train.batch_size=2
models list
models fetch tiny
models rebuild {runtime} --out checkpoint
data keyterms data/train.jsonl --out terms.txt
data keyterms data/train.jsonl --at-most 1 --out few.txt
data aliases few.txt --voices 1 --out aliases.json
data next --terms terms.txt --recorded data/train.jsonl --count 3 --out next.txt
evaluate --manifest data/test.jsonl --model tiny --aliases aliases.json
curve --train data/train.jsonl --dev data/dev.jsonl --sizes 4,5 --seeds 1 --set data.replay=none --set train.steps=2 --set select.every_steps=2 --out curve
train --train data/train.jsonl --dev data/dev.jsonl --replay auto --out runs/auto
data align {cities} cities.txt --out aligned.jsonl
data audit data/train.jsonl --no-model --out audit
data fix audit --apply --out fixed.jsonl
data fix data/dev.jsonl --style base --out styled.jsonl --apply
compare runs/a runs/first
data forget nobody-1 --manifest forget.jsonl --yes
transcribe recordings --adapter runs/a --format jsonl,srt --words --out transcripts
try runs/a recordings
try exports/a data/test.jsonl --json
runs list runs
runs show runs/a
runs compare runs/a runs/first
combine runs/a runs/first --dev atc-dev/manifest.jsonl --strengths 1,1 --out both || test $? = 1
merge --run runs/a --out merged
export --run runs/a --adapter-only --out a.adapter
apply a.adapter --to {runtime} --out applied
benchmark --runtime-dir exports/a --manifest data/test.jsonl --max-clips 2 --rounds 1 --out bench
package --run runs/a --runtime-dir exports/a --benchmark bench --with-sample data/test.jsonl --allow-failed-parity --out packed.tar.gz
verify packed.tar.gz
ablate run --space quick --train data/train.jsonl --dev data/dev.jsonl --set retain.max_clips=4 --set retain.watched_clips=2 --trials 1 --steps 2 --out search
ablate show search
ablate choose search
plan init plan.yaml --train data/train.jsonl --test data/test.jsonl --no-ask
plan run short.yaml --out planned
plan status short.yaml --out planned
runs clean runs --keep 1
"""  # noqa: E501
_SHORT_PLAN = """
name: short
data: {train: speech:train, dev: speech:dev, test: speech:test, replay: none}
phases:
  doctor:
  speech: {kind: synthesize, train: 8, dev: 2, test: 2}
  proof:
    kind: train
    needs: [doctor]
    model: tiny
    preset: tiny-proof
    settings: {train: {steps: 12}, select: {every_steps: 12}}
    gates: {holdout: off}
"""
# Needs a hub.  `demo` takes minutes, and `studio` an extra: they have tests of their own below.
_NOT_RUN = {"push", "demo", "studio"}


def test_the_readme_and_then_every_command_run(
    desk: Path, bare: dict[str, str], warm_bare: dict[str, str], wheel_assets: WheelAssets
) -> None:
    # As a reader starts it. The other commands have their libraries loaded, which saves minutes.
    shell("moonshine-tune doctor --offline", desk, bare)
    run_blocks("README.md", desk, warm_bare)
    (desk / "short.yaml").write_text(_SHORT_PLAN, encoding="utf-8")
    cities = " ".join(text for _, _, text in TWO_CITIES_SPANS)
    (desk / "cities.txt").write_text(cities, encoding="utf-8")
    paths = {"runtime": wheel_assets.runtime_dir, "cities": wheel_assets.two_cities}
    clip = {"audio": "gone.wav", "text": "one", "speaker": "nobody-1"}
    (desk / "forget.jsonl").write_text(json.dumps(clip) + "\n", encoding="utf-8")
    lines = _REMAINING.strip().format(**paths).splitlines()
    for line in lines:
        shell(f"moonshine-tune {line}", desk, warm_bare)
    blocks = [block.text for block in runnable(ROOT / "README.md")]
    written = "\n".join([*blocks, *(f"moonshine-tune {line}" for line in lines)])
    missing = [
        name
        for name in _command_names(typer.main.get_command(app))
        if f"moonshine-tune {name}" not in written and name not in _NOT_RUN
    ]
    assert missing == [], "a new command needs its smallest run in this test"


def _command_names(command: click.Command, prefix: str = "") -> Iterator[str]:
    """`train`, `data import`, …: every command that does something."""
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _command_names(inner, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("export --run runs/a --out traced --method trace", "trace"),
        ("data import hf://owner/name --out all.jsonl", "datasets"),
        (
            "ablate run --space quick --train t.jsonl --dev t.jsonl --out s "
            "--storage postgresql+psycopg://me@127.0.0.1:9/name",
            "postgresql",
        ),
        ("studio project --no-browser", "studio"),
    ],
)
def test_a_command_that_needs_an_extra_names_it(
    command: str, extra: str, tmp_path: Path, warm_bare: dict[str, str]
) -> None:
    clip = {"audio": "a.wav", "text": "one", "duration": 1.0}
    (tmp_path / "t.jsonl").write_text(json.dumps(clip) + "\n", encoding="utf-8")
    (tmp_path / "a.wav").write_bytes(b"")
    answer = shell(f"moonshine-tune {command}", tmp_path, warm_bare, code=3)
    assert re.search(rf"pip install ['\"]moonshine-tune\[{extra}\]['\"]", answer), answer


@pytest.mark.slow
def test_the_demonstration_runs(tmp_path: Path, program: Path, bare: dict[str, str]) -> None:
    shell(f"{program} demo --out demo-out", tmp_path, bare)
    assert (tmp_path / "demo-out" / "report.html").is_file()
