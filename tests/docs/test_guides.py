"""A reader who follows the guides gets through: their shell blocks are run.

In order, in one folder a page, through bash. `moonshine-tune` is a shim on PATH that shortens
training to two steps. After two steps the model still guesses at synthesized speech, and guesses
differ between torch and runtime: any share of words may. Nothing else is changed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documentation import DOCS, ROOT, RUN_PAGES, runnable

pytestmark = pytest.mark.real_model

_SHIM = """#!/usr/bin/env bash
if [ "$1" = train ]; then
  set -- "$@" --set train.steps=2 --set select.every_steps=2
elif [ "$1" = export ]; then
  set -- "$@" --parity-bound 100
fi
exec {python} -m moonshine_tune "$@"
"""


@pytest.fixture
def desk(tmp_path: Path, real_tiny: object) -> Path:
    """A folder with what the guide starts from: recordings/ and words.csv."""
    from moonshine_tune.cli.app import run

    folder = tmp_path / "my desk"
    made = tmp_path / "synth"
    words = ["data", "synth", "--grammar", "atc", "--count", "10", "--voice-set", "train"]
    assert run([*words, "--out", str(made)]) == 0
    (folder / "recordings").mkdir(parents=True)
    rows = ["file,text,speaker"]
    for number, line in enumerate((made / "manifest.jsonl").read_text().splitlines(), start=1):
        record = json.loads(line)
        name = f"take {number:02d}.wav"
        (made / record["audio"]).rename(folder / "recordings" / name)
        rows.append(f'{name},"{record["text"]}",{record["speaker"]}')
    (folder / "words.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_blocks_of_a_page_run_in_order(page: str, desk: Path, tmp_path: Path) -> None:
    blocks = runnable(ROOT / page)
    assert blocks
    shim = tmp_path / "bin" / "moonshine-tune"
    shim.parent.mkdir()
    shim.write_text(_SHIM.format(python=sys.executable), encoding="utf-8")
    shim.chmod(0o755)
    environment = os.environ | {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=desk, env=environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}:{block.line}\n{block.text}\n{done.stderr[-3000:]}"
    for run_folder in desk.glob("runs/*"):
        described = (DOCS / "reference" / "run-folder.md").read_text(encoding="utf-8")
        missing = [e.name for e in run_folder.iterdir() if f"`{e.name}" not in described]
        assert missing == [], "docs/reference/run-folder.md names every entry"
    if (desk / "exported").is_dir():
        assert (desk / "exported" / "decoder_model_merged.ort").is_file()
