"""Aliases mapped back to their terms: one set of results for all implementations."""

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from moonshine_tune.corpus.aliases import ALIAS_CODE
from moonshine_tune.corpus.aliases.apply_aliases import apply_aliases

_CODE = resources.files("moonshine_tune.corpus.aliases")
_VECTORS = json.loads((_CODE / "alias_vectors.json").read_text(encoding="utf-8"))
_SCRIPT = """
import fs from "fs";
import { applyAliases } from "./apply_aliases.mjs";
const { aliases, cases } = JSON.parse(fs.readFileSync("alias_vectors.json", "utf8"));
console.log(JSON.stringify(cases.map((item) => applyAliases(item.text, aliases))));
"""


@pytest.mark.parametrize("case", _VECTORS["cases"], ids=lambda case: case["text"][:30])
def test_python_gives_the_shared_results(case: dict[str, str]) -> None:
    assert apply_aliases(case["text"], _VECTORS["aliases"]) == case["result"]


def test_javascript_gives_the_shared_results(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    for name in ALIAS_CODE:
        (tmp_path / name.replace(".js", ".mjs").replace(".mjson", ".json")).write_text(
            (_CODE / name).read_text(encoding="utf-8"), encoding="utf-8"
        )
    (tmp_path / "run.mjs").write_text(_SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [case["result"] for case in _VECTORS["cases"]]


def test_a_table_without_aliases_changes_nothing() -> None:
    assert apply_aliases("as it is.  Yes", {}) == "as it is.  Yes"
