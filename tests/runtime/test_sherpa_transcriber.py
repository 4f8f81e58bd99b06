"""Runtime folders in sherpa-onnx: its tokens, what it cannot load, and its transcripts."""

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.formats import check_format, open_runtime
from moonshine_tune.runtime.layout import STREAMING_FILES, TOKENS_FILE, V1_FILES, read_layout
from moonshine_tune.runtime.sherpa_transcriber import SherpaTranscriber, write_tokens


def _folder(path: Path, files: tuple[str, ...] = V1_FILES) -> Path:
    path.mkdir()
    for name in files:
        (path / name).write_bytes(b"")
    # Two pieces: "a", and three bytes that are half of a character.
    (path / "tokenizer.bin").write_bytes(b"\x01a\x03\xe2\x96\xff")
    return path


class _Recognizer:
    """As much of sherpa-onnx as is called: it recognizes how long a clip is."""

    def __init__(self, encoder: str, decoder: str, tokens: str) -> None:
        if not (Path(encoder).is_file() and Path(decoder).is_file()):
            raise RuntimeError("no such model")
        self.tokens = Path(tokens).read_text(encoding="ascii")

    from_moonshine_v2 = classmethod(lambda cls, **files: cls(**files))

    def create_stream(self) -> Any:
        stream = SimpleNamespace(result=None)
        stream.accept_waveform = lambda rate, clip: setattr(stream, "clip", (rate, len(clip)))
        return stream

    def decode_stream(self, stream: Any) -> None:
        stream.result = SimpleNamespace(text=f" {stream.clip[1]} samples at {stream.clip[0]} ")


@pytest.fixture
def pretended_sherpa(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(OfflineRecognizer=_Recognizer, __version__="2.0.1")
    monkeypatch.setitem(sys.modules, "sherpa_onnx", module)


def test_tokens_are_pieces_in_base64_with_their_ids(tmp_path: Path) -> None:
    layout = read_layout(_folder(tmp_path / "base"))
    lines = write_tokens(layout, tmp_path).read_text().splitlines()
    assert [line.split() for line in lines] == [
        [base64.b64encode(b"a").decode(), "0"],
        [base64.b64encode(b"\xe2\x96\xff").decode(), "1"],
    ]


@pytest.mark.usefixtures("pretended_sherpa")
def test_a_folder_without_tokens_is_loaded_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "base")
    with open_runtime("sherpa-onnx", folder) as runtime:
        assert runtime.backend == "sherpa-onnx"
        clips = [np.zeros(count, np.float32) for count in (3, 5)]
        assert runtime.transcribe(clips) == ["3 samples at 16000", "5 samples at 16000"]
    assert not (folder / TOKENS_FILE).exists()
    write_tokens(read_layout(folder), folder)
    assert TOKENS_FILE in read_layout(folder).files


@pytest.mark.usefixtures("pretended_sherpa")
def test_what_sherpa_cannot_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="this one is streaming"):
        SherpaTranscriber(_folder(tmp_path / "streaming", STREAMING_FILES))
    with pytest.raises(RequestError, match="this one is streaming"):
        check_format("sherpa-onnx", "streaming")
    with pytest.raises(RequestError, match="no format is called 'onnx'"):
        check_format("onnx")


def test_without_the_package_the_line_to_type_is_shown(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sherpa_onnx", None)
    words = ("--checkpoint", tmp_path, "--model", "tiny", "--manifest", tmp_path / "test.jsonl")
    code, answer = ask("export", *words, "--format", "sherpa-onnx", "--out", tmp_path / "out")
    assert code == 3
    assert "pip install 'moonshine-tune[sherpa-onnx]'" in answer["error"]["hint"]
    old = SimpleNamespace(OfflineRecognizer=object, __version__="1.9")
    monkeypatch.setitem(sys.modules, "sherpa_onnx", old)
    with pytest.raises(MachineError, match=r"1\.9 does not load these files"):
        check_format("sherpa-onnx")


@pytest.mark.real_model
def test_the_real_sherpa_reads_the_wheels_files(wheel_assets: WheelAssets) -> None:
    pytest.importorskip("sherpa_onnx", reason="the extra sherpa-onnx is not installed")
    clip = load_audio(wheel_assets.beckett)[: 16_000 * 10]
    with open_runtime("sherpa-onnx", wheel_assets.runtime_dir) as sherpa:
        (text,) = sherpa.transcribe([clip])
    with open_runtime("moonshine", wheel_assets.runtime_dir) as runtime:
        assert runtime.transcribe([clip]) == [text]
