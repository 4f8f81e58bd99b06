"""What modules may import, where code may be, and rules that hold for all source files."""

import ast
import configparser
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import moonshine_tune

_SRC = Path(moonshine_tune.__file__).parent
_ROOT = Path(__file__).parents[2]
_MOST_ROWS = 25
_MOST_OF_ALL_LINES = 0.14
_HEAVY = (
    "torch", "numpy", "transformers", "peft", "accelerate", "onnxruntime", "onnx", "soundfile",
    "soxr", "moonshine_voice", "tensorboard", "tokenizers", "safetensors", "optuna",
)  # fmt: skip
# Modules that work without any heavy package.
_LIGHT = (
    "core.errors", "core.files", "core.environment", "core.progress", "core.provenance",
    "core.hardware", "core.network", "core.signals", "core.version", "core.yaml", "config.settings",
    "config.resolve", "corpus.manifest", "corpus.normalizers", "corpus.sampler", "corpus.splits",
    "metrics.wer", "registry.catalog", "runs.folder", "doctor.dependencies",
    "data.synthesis.atc_grammar", "data.synthesis.general_sentences", "data.synthesis.judgment",
    "training.selection", "cli.reference",
)  # fmt: skip
# Started as separate programs: they read their arguments.
_PROCESSES = (
    "audio/espeak_worker.py",
    "evaluation/benchmark/worker.py",
    # To be copied into an app, and a program there.
    "runtime/apply_adapter.py",
)
_COMMANDS = (
    "", "doctor", "models", "models list", "models fetch", "models rebuild", "data", "data import",
    "data align", "data aliases", "data check", "data next", "data split", "data synth", "curve",
    "estimate", "train", "evaluate", "transcribe", "try",
    "export", "benchmark", "package", "verify", "report", "demo", "ablate", "ablate run",
    "ablate show", "ablate choose", "runs", "runs list", "runs show", "runs compare", "runs clean",
    "settings", "apply", "combine",
)  # fmt: skip


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(_SRC.rglob("*.py")):
        yield str(path.relative_to(_SRC)), ast.parse(path.read_text(encoding="utf-8"))


def _loaded_by(code: str) -> set[str]:
    """Top-level packages that a new Python has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('|'.join(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split("|")}


# --- structure


def test_the_root_holds_only_packages_and_the_entry_points() -> None:
    allowed = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    entries = [path for path in _SRC.iterdir() if path.name not in allowed]
    assert [path.name for path in entries if not (path / "__init__.py").is_file()] == []


def import_cycle(modules: dict[str, ast.Module]) -> list[str]:
    """A circle of imports between modules, imports inside functions included; empty if none.

    Imports for type checkers alone do not count.
    """
    graph: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules.items():
        for node in _without_type_checking(tree):
            for target in _imported_modules(node, modules):
                if target != name:
                    graph[name].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _without_type_checking(node)


def _imported_modules(node: ast.AST, modules: dict[str, ast.Module]) -> list[str]:
    """The modules of the package that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        # `from package import module` imports the module, any other name its module.
        joined = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name in modules else str(node.module) for name in joined]
    else:
        names = []
    return [name for name in names if name in modules]


def test_there_is_no_import_circle() -> None:
    modules = {}
    for path, tree in _modules():
        parts = Path("moonshine_tune", path).with_suffix("").parts
        modules[".".join(part for part in parts if part != "__init__")] = tree
    assert import_cycle(modules) == []


def test_the_check_of_circles_finds_one_inside_functions() -> None:
    code = {
        "p.a": "def f():\n    from p.b import x",
        "p.b": "import p.c",
        "p.c": "if TYPE_CHECKING:\n    import p.d\nfrom p import a",
        "p.d": "import p.c",
    }
    modules = {name: ast.parse(text) for name, text in code.items()}
    assert set(import_cycle(modules)) == {"p.a", "p.b", "p.c"}
    del modules["p.a"]
    assert import_cycle(modules) == []


def test_no_class_name_is_used_twice() -> None:
    places = defaultdict(list)
    for name, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_package_is_much_larger_than_the_others() -> None:
    lines: Counter[str] = Counter()
    for path in _SRC.rglob("*.py"):
        package = path.relative_to(_SRC).parts[0]
        lines[package] += len(path.read_text(encoding="utf-8").splitlines())
    limit = _MOST_OF_ALL_LINES * lines.total()
    assert {name: count for name, count in lines.items() if count > limit} == {}


def test_the_layers_name_every_package_in_few_rows() -> None:
    parser = configparser.ConfigParser()
    parser.read(_ROOT / ".importlinter")
    rows = parser["importlinter:contract:layers"]["layers"].strip().splitlines()
    assert len(rows) <= _MOST_ROWS
    named = {name for row in rows for name in re.split(r"[|:\s]+", row) if name}
    assert named == {path.parent.name for path in _SRC.glob("*/__init__.py")}


# --- cost of imports


def test_help_loads_nothing_heavy() -> None:
    """Through the real entry point; -X importtime lists every module that Python loads."""
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
def test_light_modules_import_nothing_heavy(name: str) -> None:
    """Not even inside a function, where the command that calls it would wait for it."""
    tree = ast.parse((_SRC / f"{name.replace('.', '/')}.py").read_text("utf-8"))
    named = {top for node in ast.walk(tree) for top in _imported(node)}
    assert not named & set(_HEAVY)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").partition(".")[0]]
    return []


def test_light_modules_load_nothing_heavy() -> None:
    loaded = _loaded_by("\n".join(f"import moonshine_tune.{name}" for name in _LIGHT))
    assert not loaded & set(_HEAVY)


# --- rules for all source files


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
    faults = [
        f"{name}:{node.lineno}"
        for name, tree in _modules()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and node.level) or isinstance(node, ast.Assert)
    ]
    assert faults == []


def test_nothing_is_unpickled() -> None:
    """Weights are safetensors only: no call that could execute the content of a file."""
    faults = []
    for name, tree in _modules():
        for node in ast.walk(tree):
            if {"pickle", "dill", "cloudpickle", "joblib"} & set(_imported(node)):
                faults.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "load"
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("torch", "np", "numpy")
            ):
                faults.append(f"{name}:{node.lineno}")
    assert faults == []


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
