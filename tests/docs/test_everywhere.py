"""docs/guides/everywhere.md: its programs run and print the transcript."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.documentation import DOCS, blocks_of

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.export.adapter_file import adapter_file
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.registry.base_model import base_identity
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runs.records import ExportRecord
from moonshine_tune.runtime import apply_adapter
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.sherpa_transcriber import write_tokens

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("one_thread")]

_BLOCKS = [b.text for b in blocks_of(DOCS / "guides/everywhere.md") if b.language != "sh"]
_TEXT = "Ever tried, ever failed, no matter, try again, fail again, fail better."


def _program(sign: str) -> str:
    """The one program of the page that has this line in it."""
    (text,) = (text for text in _BLOCKS if sign in text)
    return text


@pytest.fixture(scope="module")
def desk(wheel_assets: WheelAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip and an exported model."""
    desk = tmp_path_factory.mktemp("desk")
    samples = load_audio(wheel_assets.beckett)
    write_audio(desk / "clip.wav", samples)
    samples.tofile(desk / "clip.raw")
    shutil.copytree(wheel_assets.runtime_dir, desk / "exported")
    write_tokens(read_layout(desk / "exported"), desk / "exported")
    return desk


@pytest.fixture
def output(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """Runs a program in the folder; returns the lines that it prints."""

    def run(program: str) -> list[str]:
        monkeypatch.chdir(desk)
        exec(compile(program, "everywhere.md", "exec"), {})
        return capsys.readouterr().out.strip().splitlines()

    return run


def test_the_moonshine_runtime_in_python(output: Callable[[str], list[str]]) -> None:
    assert output(_program("from moonshine_voice")) == [_TEXT]


def test_sherpa_onnx_in_python(output: Callable[[str], list[str]]) -> None:
    pytest.importorskip("sherpa_onnx", reason="the extra sherpa-onnx is not installed")
    assert output(_program("import sherpa_onnx")) == [_TEXT]


def test_the_moonshine_runtime_in_c(desk: Path) -> None:
    if shutil.which("gcc") is None or sys.platform != "linux":
        pytest.skip("needs gcc on Linux")
    import moonshine_voice

    voice = Path(moonshine_voice.__file__).parent
    (desk / "transcribe.c").write_text(_program("#include <stdio.h>"))
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "transcribe.c", "-o", "transcribe",
         str(voice / "libmoonshine.so"), f"-Wl,-rpath,{voice}", "-Wl,--allow-shlib-undefined"],
        cwd=desk, check=True,
    )  # fmt: skip
    with (desk / "clip.raw").open("rb") as clip:
        answer = subprocess.run(
            ["./transcribe", "exported"], cwd=desk, stdin=clip, capture_output=True, check=True
        )
    assert answer.stdout.decode().strip() == _TEXT


def test_the_merged_checkpoint_in_transformers(
    desk: Path, real_tiny: ResolvedModel, output: Callable[[str], list[str]]
) -> None:
    (desk / "merged").symlink_to(real_tiny.checkpoint_dir)
    assert output(_program("from transformers")) == [_TEXT]


def test_the_merged_checkpoint_in_mlx_audio(
    desk: Path, real_tiny: ResolvedModel, output: Callable[[str], list[str]]
) -> None:
    pytest.importorskip("mlx_audio", reason="mlx-audio is not installed")
    if not (desk / "merged").exists():
        (desk / "merged").symlink_to(real_tiny.checkpoint_dir)
    assert output(_program("from mlx_audio")) == [_TEXT]


def test_an_adapter_file_in_an_app(
    desk: Path, output: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = read_layout(desk / "exported")
    file = OrtFile.read(base.folder / "encoder_model.ort")
    norm = file.by_name["layer_norm.weight"]
    shutil.copytree(base.folder, desk / "full")
    values = 2 * file.array(norm)
    (desk / "full/encoder_model.ort").write_bytes(file.patched({norm.offset: values.tobytes()}))
    (desk / "anna.adapter").write_bytes(adapter_file(base, desk / "full", ExportRecord()))
    (desk / "tiny-en").symlink_to(base.folder)
    monkeypatch.syspath_prepend(str(Path(apply_adapter.__file__).parent))
    output(_program("from apply_adapter"))
    for path in (desk / "full").iterdir():
        assert (desk / "tiny-anna" / path.name).read_bytes() == path.read_bytes()


def test_several_adapters_in_one_process(
    desk: Path, real_tiny: ResolvedModel, output: Callable[[str], list[str]]
) -> None:
    model = load_checkpoint(real_tiny.checkpoint_dir)
    inject_lora(model, rank=2, sites="decoder", seed=1)
    for name in ("anna", "radio"):
        folder = desk / "runs" / name
        folder.mkdir(parents=True)
        save_adapter(folder, model, adapter_state(model), base=base_identity(real_tiny))
        with torch.no_grad():
            for _, value in adapter_parameters(model.module):
                value.add_(0.05)
    lines = output(_program("load_adapter"))
    # The first adapter is new and changes nothing; the second one is noise.
    assert [line.split()[0] for line in lines] == ["anna", "radio", "None"]
    assert lines[0] == f"anna {_TEXT}" and lines[2] == f"None {_TEXT}"
    assert _TEXT not in lines[1]
