"""The Python API: cheap to import, typed, and its page runs."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.documentation import DOCS, blocks_of

import moonshine_tune as mt
from moonshine_tune.core.environment import DEFAULTS

_PAGE = DOCS / "reference" / "python.md"
_BLOCKS = [block for block in blocks_of(_PAGE) if block.language == "python"]
_HEAVY = ("torch", "numpy", "transformers", "peft", "pydantic", "typer", "rich")


@pytest.fixture
def folder(speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the page: recordings and the manifests that it names."""
    folder = tmp_path / "my project"
    shutil.copytree(speech_folder, folder)
    shutil.copy(folder / "dev.jsonl", folder / "test.jsonl")
    shutil.copy(folder / "train-0.wav", folder / "clip.wav")
    monkeypatch.chdir(folder)
    return folder


def _run(blocks: list[str]) -> None:
    """Run blocks in one namespace, in order, with two training steps."""
    namespace: dict[str, object] = {}
    for block in blocks:
        code = block.replace('"train.steps": 100', '"train.steps": 2')
        exec(compile(code, str(_PAGE), "exec"), namespace)


def test_the_page_runs_on_a_small_random_model(
    folder: Path, saved_v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks but the export, which needs the runtime files of a published model."""
    texts = [block.text for block in _BLOCKS if "mt.export(" not in block.text]
    assert len(texts) == len(_BLOCKS) - 1
    model = repr(str(saved_v1))
    _run([t.replace('preset="tiny"', 'preset="demo"').replace('"tiny"', model) for t in texts])
    shown = capsys.readouterr().out
    assert "dev WER" in shown and "finished" in shown
    assert (folder / "runs" / "a" / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "eval" / "a" / "result.json").is_file()
    assert "missing.jsonl" in shown and "hint:" in shown
    assert not (folder / "runs" / "b").exists()


@pytest.mark.real_model
def test_the_page_runs_on_the_real_model(folder: Path, real_tiny: object) -> None:
    _run([block.text for block in _BLOCKS])
    assert (folder / "exported" / "decoder_model_merged.ort").is_file()


def test_the_import_loads_nothing_heavy_and_sets_the_environment() -> None:
    defaults = {name: value for name, (value, _reason) in DEFAULTS.items()}
    code = (
        "import os, sys\n"
        f"for name in {list(DEFAULTS)!r}:\n"
        "    os.environ.pop(name, None)\n"
        "import moonshine_tune\n"
        f"assert {defaults!r}.items() <= os.environ.items()\n"
        "print('|'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.strip().split("|")}
    assert not loaded & set(_HEAVY)


def test_every_public_name_is_on_the_page() -> None:
    text = _PAGE.read_text(encoding="utf-8")
    functions = [name for name in mt.__all__ if name != "__version__"]
    assert [name for name in functions if f"mt.{name}" not in text] == []
    assert [name for name in mt.__all__ if not hasattr(mt, name)] == []


def test_settings_have_the_sources_of_the_command_line(folder: Path, saved_v1: Path) -> None:
    with pytest.raises(mt.TuneError, match=r"did you mean 'train\.steps'") as caught:
        mt.train(train="train.jsonl", out="runs/a", settings={"train": {"stepz": 3}})
    assert "settings: no setting is called 'train.stepz'" in str(caught.value)
    result = mt.train(
        model=str(saved_v1), preset="tiny-proof", train="train.jsonl", dev="dev.jsonl",
        replay="none", out="runs/a", settings={"train.steps": 2, "train.accumulation": 1},
    )  # fmt: skip
    assert result.steps == 2
    assert result.run == Path("runs/a")
    again = mt.train(out="runs/a", resume=True, settings={"train.steps": 3})
    assert again.steps == 3


def test_recordings_are_checked_together(folder: Path, saved_v1: Path) -> None:
    long = np.zeros(31 * 16_000, dtype=np.float32)
    stereo = np.zeros((16_000, 2), dtype=np.float32)
    with pytest.raises(mt.TuneError, match="4 of 5 recordings") as caught:
        mt.transcribe(["clip.wav", "missing.wav", long, stereo, long[:0]], model=str(saved_v1))
    for words in ("missing.wav", "recording 2: 31.0 s", "recording 3: samples must be one channel",
                  "recording 4: 0.0 s"):  # fmt: skip
        assert words in str(caught.value)
    assert mt.transcribe([], model=str(saved_v1)) == []
    transcripts = mt.transcribe(["clip.wav", np.zeros(16_000)], model=str(saved_v1))
    assert transcripts[1].seconds == 1.0
    assert transcripts[0].text


def test_export_stays_a_function_when_its_package_is_imported() -> None:
    import moonshine_tune as mt

    assert callable(mt.export)
    importlib.import_module("moonshine_tune.export.run")
    assert callable(mt.export)
    with pytest.raises(TypeError, match="out"):
        mt.export()
