"""Imports tell the truth about cost, and the house keeps its floors and its one loop."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import moonshine_tune

_SRC = Path(moonshine_tune.__file__).parent
_HEAVY = (
    "torch", "numpy", "transformers", "peft", "accelerate", "onnxruntime", "onnx", "soundfile",
    "soxr", "moonshine_voice", "tensorboard", "tokenizers", "safetensors", "optuna",
)  # fmt: skip
# They run where nothing heavy is installed.
_LIGHT = (
    "core.errors", "core.files", "core.environment", "core.progress", "core.provenance",
    "core.hardware", "core.network", "core.signals", "core.yaml", "config.settings",
    "config.resolve", "corpus.manifest", "corpus.normalizers", "corpus.sampler", "corpus.splits",
    "metrics.wer", "registry.catalog", "runs.folder", "doctor.dependencies",
    "data.synthesis.atc_grammar", "data.synthesis.general_sentences", "training.selection",
    "cli.settings_reference",
)  # fmt: skip
# Programs of their own, started with `python`: they read their arguments.
_PROCESSES = ("audio/espeak_worker.py", "evaluation/benchmark/worker.py")
_COMMANDS = (
    "", "doctor", "models", "models list", "models fetch", "models rebuild", "data", "data import",
    "data check", "data split", "data synth", "estimate", "train", "evaluate", "export",
    "benchmark", "package", "verify", "report", "demo", "ablate", "ablate run", "ablate show",
    "ablate choose", "runs", "runs list", "runs show", "runs compare", "runs clean",
)  # fmt: skip


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(_SRC.rglob("*.py")):
        yield str(path.relative_to(_SRC)), ast.parse(path.read_text(encoding="utf-8"))


def _loaded_by(code: str) -> set[str]:
    """Top-level packages that are loaded in a new Python after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('|'.join(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split("|")}


def test_help_loads_nothing_heavy() -> None:
    """Through the real entry point; -X importtime tells every module that Python loads."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "moonshine_tune", "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "Usage" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "moonshine_tune.cli.app" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(_HEAVY)


def test_the_help_of_every_command_loads_nothing_heavy() -> None:
    calls = [[*command.split(), "--help"] for command in _COMMANDS]
    loaded = _loaded_by(
        "import io, contextlib\n"
        "from moonshine_tune.cli.app import run\n"
        f"for words in {calls!r}:\n"
        "    text = io.StringIO()\n"
        "    with contextlib.redirect_stdout(text):\n"
        "        assert run(words) == 0, words\n"
        "    assert 'Usage' in text.getvalue(), words\n"
    )
    assert not loaded & set(_HEAVY)


@pytest.mark.parametrize("name", _LIGHT)
def test_the_lower_floors_name_nothing_heavy(name: str) -> None:
    """Not even inside of a function, where the command that calls it would pay for it."""
    tree = ast.parse((_SRC / f"{name.replace('.', '/')}.py").read_text("utf-8"))
    named = {top for node in ast.walk(tree) for top in _imported(node)}
    assert not named & set(_HEAVY)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").partition(".")[0]]
    return []


def test_the_lower_floors_load_nothing_heavy() -> None:
    loaded = _loaded_by("\n".join(f"import moonshine_tune.{name}" for name in _LIGHT))
    assert not loaded & set(_HEAVY)


def test_there_is_one_training_loop() -> None:
    """One call of `backward` in the whole package: in plain sight in training/trainer.py."""
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
    ]
    assert len(calls) == 1, calls
    assert calls[0].startswith("training/trainer.py:")


@pytest.mark.parametrize("word", ["print", "exit", "quit", "input", "eval", "exec"])
def test_no_module_calls(word: str) -> None:
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == word
    ]
    assert calls == []


def test_nothing_is_imported_relatively_or_asserted() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in _modules()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and node.level) or isinstance(node, ast.Assert)
    ]
    assert found == []


def test_nothing_is_unpickled() -> None:
    """Weights are safetensors only: no call that could run what a file says."""
    found = []
    for name, tree in _modules():
        for node in ast.walk(tree):
            if {"pickle", "dill", "cloudpickle", "joblib"} & set(_imported(node)):
                found.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "load"
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("torch", "np", "numpy")
            ):
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_only_the_command_line_prints_and_exits_and_reads_arguments() -> None:
    for name, tree in _modules():
        if name.startswith("cli/") or name in ("__main__.py", "core/provenance.py", *_PROCESSES):
            continue
        named = {top for node in ast.walk(tree) for top in _imported(node)}
        assert not named & {"typer", "click", "argparse", "rich"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                reached = f"{node.value.id}.{node.attr}"
                assert reached not in ("sys.exit", "sys.argv", "sys.stdout", "sys.stderr"), name
