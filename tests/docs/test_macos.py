"""All dependencies resolve for Apple silicon and macOS 15, and the table of memory is current."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from benchmarks.memory_table import lines
from tests.documentation import DOCS, ROOT

_OLDEST = "15.0"


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv in an environment of its own; it needs the package index."""
    folder = tmp_path_factory.mktemp("uv")
    venv.create(folder, with_pip=True)
    environment = {k: v for k, v in os.environ.items() if k != "PIP_NO_INDEX"}
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "uv"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr[-300:]}")
    return folder / "bin" / "uv"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the folders of an environment differ")
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_everything_has_a_wheel_for_macos_15(python: str, uv: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PIP_NO_INDEX"}
    done = subprocess.run(
        [str(uv), "pip", "compile", "pyproject.toml", "-c", "constraints.txt", "--only-binary",
         ":all:", "--python-platform", "aarch64-apple-darwin", "--python-version", python,
         "--no-header", "--no-annotate"],
        cwd=ROOT, env=environment | {"MACOSX_DEPLOYMENT_TARGET": _OLDEST},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    names = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert {"torch", "moonshine-voice", "onnxruntime", "espeakng-loader"} <= names


def test_macos_15_is_the_least_everywhere() -> None:
    """`moonshine-voice` has wheels for it and later only."""
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert "runs-on: macos-15" in workflow
    assert f'MACOSX_DEPLOYMENT_TARGET: "{_OLDEST}"' in workflow
    assert "macos-14" not in workflow
    for path in (ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "src").rglob("*.py")):
        assert "macOS 14" not in path.read_text(encoding="utf-8"), path


@pytest.mark.slow
def test_the_table_of_memory_is_what_the_command_prints() -> None:
    page = (DOCS / "memory.md").read_text(encoding="utf-8")
    assert "\n".join(lines()) in page
