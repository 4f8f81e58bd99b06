"""Streaming folders in the Moonshine runtime: a model of the exact small shape, random weights.

A random model says nonsense, and says the same nonsense wherever it is computed alike: any fault of
a graph shows in its text.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from benchmarks.random_model import save_random_model

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import DecodeLimits, SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.registry.base_model import base_identity
from moonshine_tune.registry.resolve import resolve_model
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import quantized_tensors
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("one_thread")]

Floats = npt.NDArray[np.float32]
Answer = tuple[int, dict[str, Any]]
_RULE = normalizer_for("basic-1")
# A random model knows no end: torch and runtime stop at limits that lie a token or two apart.
_LIMIT_BOUND = "20"


@pytest.fixture(scope="module")
def folders(wheel_assets: WheelAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base/` (checkpoint), `float/` and `int8/` (runtime folders), clips. Read only."""
    folder = tmp_path_factory.mktemp("streaming")
    model = save_random_model("streaming-tiny", folder / "base")
    for name, scheme in (("float", "none"), ("int8", "int8")):
        (folder / name).mkdir()
        build_graphs(model, model_tensors(model), folder / name, scheme=scheme)
    lines = []
    for number, (start, seconds) in enumerate(((0.0, 1.5), (2.0, 2.4))):
        clip = load_audio(wheel_assets.beckett)[int(start * 16_000) :][: int(seconds * 16_000)]
        write_audio(folder / f"{number}.wav", clip)
        lines.append({"id": f"clip-{number}", "audio": f"{number}.wav", "text": "try again"})
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def clips(folders: Path) -> list[Floats]:
    return [load_audio(folders / f"{number}.wav") for number in range(2)]


@pytest.fixture(scope="module")
def model(folders: Path) -> SpeechModel:
    return load_checkpoint(folders / "base")


def test_the_runtime_transcribes_as_torch_at_once_and_in_chunks(
    folders: Path, model: SpeechModel, clips: list[Floats]
) -> None:
    expected = [
        _RULE(text).split() for text in TorchTranscriber(model, DecodeLimits()).transcribe(clips)
    ]
    with RuntimeTranscriber(folders / "float") as runtime:
        at_once = runtime.transcribe(clips)
        chunked = [runtime.transcribe_in_chunks(clip) for clip in clips]
        odd = runtime.transcribe_in_chunks(clips[0], chunk_s=0.0371)
    transcripts = [[_RULE(text).split() for text in texts] for texts in (at_once, chunked, [odd])]
    for own in transcripts:
        for ours, theirs in zip(expected, own, strict=False):
            # It knows no end: each stops at its own limit of tokens, one or two apart.
            both = min(len(ours), len(theirs))
            assert both > 4 and abs(len(ours) - len(theirs)) <= 2
            assert ours[:both] == theirs[:both]


def test_the_eight_bit_folder_loads_and_transcribes(folders: Path, clips: list[Floats]) -> None:
    with RuntimeTranscriber(folders / "int8") as runtime:
        assert all(runtime.transcribe(clips))
    sizes = {name: sum(path.stat().st_size for path in (folders / name).glob("*.ort"))
             for name in ("float", "int8")}  # fmt: skip
    assert sizes["int8"] < 0.35 * sizes["float"]


def test_a_streaming_folder_is_rebuilt_by_the_command(
    folders: Path,
    clips: list[Floats],
    model: SpeechModel,
    ask: Callable[..., Answer],
    tmp_path: Path,
) -> None:
    code, result = ask("models", "rebuild", folders / "float", "--out", tmp_path / "rebuilt")
    assert code == 0
    assert result["tensors"] == 161 and result["parameters"] > 40e6
    again = load_checkpoint(tmp_path / "rebuilt")
    assert (
        model.module.config.encoder_config.head_dim == again.module.config.encoder_config.head_dim
    )
    wanted, transcripts = (TorchTranscriber(candidate, DecodeLimits()).transcribe(clips[:1])
                     for candidate in (model, again))  # fmt: skip
    assert transcripts == wanted


# --- an adapter, all the way


@pytest.fixture
def little_general_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips do not decide; of the general speech that is added, two more go the same way.

    A random model knows no end: each of its clips takes seconds, in torch and in the runtime.
    """
    monkeypatch.setattr("moonshine_tune.export.parity.clips._MOST_GENERAL", 2)


@pytest.fixture(scope="module")
def adapter(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that clearly changes the transcripts."""
    folder = tmp_path_factory.mktemp("adapter")
    model = load_checkpoint(folders / "base")
    inject_lora(model, rank=4, sites="decoder", seed=1)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            if ".lora_B" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=torch.Generator()))
    base = base_identity(resolve_model(str(folders / "base")))
    save_adapter(folder, model, adapter_state(model), base=base)
    return folder


@pytest.mark.usefixtures("little_general_speech")
def test_a_float_trace_of_an_adapter_passes_the_whole_gate(
    folders: Path, adapter: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    code, result = ask(
        "export", "--run", adapter, "--model", folders / "base", "--method", "trace", "--quantize",
        "none", "--manifest", folders / "test.jsonl", "--out", tmp_path / "out",
        "--base-runtime", folders / "float", "--parity-bound", _LIMIT_BOUND,
    )  # fmt: skip
    assert code == 0, result["parity"]["first_difference"]
    assert (
        result["windows"]["rule"] == "exclusive" and "hidden states" in result["windows"]["reason"]
    )
    parity = result["parity"]
    assert [item["graph"] for item in parity["graphs"]] == [
        "frontend.ort", "encoder.ort", "adapter.ort", "cross_kv.ort", "cross_kv.ort",
        "decoder_kv.ort",
    ]  # fmt: skip
    assert parity["weights"]["checked"] == 160 and parity["tokens"]["agreement"] == 1.0
    assert parity["clips"] == 2
    # Fed in chunks a clip may be allowed a token more before it is stopped.
    assert parity["chunked"]["clips"] == 2
    assert parity["chunked"]["word_difference"] <= float(_LIMIT_BOUND)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["method"] == "trace" and len(record["adapter_sha256"]) == 64


@pytest.mark.usefixtures("little_general_speech")
def test_a_graft_writes_the_files_of_its_sites_and_a_fault_stops_it(
    folders: Path, adapter: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    words = ["export", "--run", adapter, "--model", folders / "base", "--manifest",
             folders / "test.jsonl", "--parity-bound", _LIMIT_BOUND]  # fmt: skip
    code, result = ask(*words, "--base-runtime", folders / "float", "--out", tmp_path / "out")
    assert code == 0, result["parity"]["first_difference"]
    # Self-attention, queries and outputs of cross-attention, feed-forward; keys and values.
    assert result["changed_files"] == ["cross_kv.ort", "decoder_kv.ort"]
    assert result["changed"] == result["matrices"] == 60
    faulty = tmp_path / "faulty"
    shutil.copytree(folders / "int8", faulty)
    file = OrtFile.read(faulty / "encoder.ort")
    tensor = next(iter(quantized_tensors(file)))
    doubled = (2 * file.array(tensor.scale)).astype("<f4").tobytes()
    (faulty / "encoder.ort").write_bytes(file.patched({tensor.scale.offset: doubled}))
    code, result = ask(*words, "--base-runtime", faulty, "--out", tmp_path / "no")
    assert code == 1
    first = result["parity"]["first_difference"]
    assert (
        first.startswith("encoder.ort: model.encoder.layers.")
        and "is not the trained tensor" in first
    )


# --- key terms


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    path = tmp_path / "terms.txt"
    path.write_text("Beckett\ntry again\n", encoding="utf-8")
    return path


def test_boosted_key_terms_are_transcribed(
    folders: Path, terms: Path, ask: Callable[..., Answer]
) -> None:
    code, result = ask(
        "evaluate", "--runtime-dir", folders / "float", "--manifest", folders / "test.jsonl",
        "--keyterms", terms, "--boost", "40", "--base-runtime", folders / "int8",
    )  # fmt: skip
    assert code == 0
    table = result["keyterms"]
    assert (table["boost"], table["terms"]) == (40.0, 2)
    arms = {arm["arm"]: arm for arm in table["arms"]}
    assert list(arms) == ["base", "key terms", "adapter", "adapter and key terms"]
    for arm in arms.values():
        assert arm["spoken"] == 2
        assert arm["change"]["before"] == arms["base"]["wer"]
    assert arms["base"]["recalled"] == arms["adapter"]["recalled"] == 0
    # So strong a boost forces the terms in, said or not: the report shows both sides.
    for name in ("key terms", "adapter and key terms"):
        assert arms[name]["recalled"] + arms[name]["false_alarms"] > 0
    assert result["wer"] == arms["adapter and key terms"]["wer"]


def test_a_passage_is_scored_beside_the_key_terms(
    folders: Path, terms: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    passage = tmp_path / "agenda.txt"
    passage.write_text("Zyqqoloth Vrandamir\nspeaks on Zyqqoloth.\n", encoding="utf-8")
    words = ("evaluate", "--runtime-dir", folders / "float", "--manifest", folders / "test.jsonl")
    code, result = ask(*words, "--keyterms", terms, "--context", passage, "--boost", "40")
    assert code == 0
    arms = [arm["arm"] for arm in result["keyterms"]["arms"]]
    assert arms == ["model", "key terms", "context"]
    # So strong a boost changes what is written.
    lines = {arm["arm"]: arm["change"]["after"] for arm in result["keyterms"]["arms"]}
    assert lines["context"] != lines["model"]


def test_the_benchmark_measures_with_key_terms_and_from_the_end_of_speech(
    folders: Path, terms: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    code, result = ask(
        "benchmark", "--runtime-dir", folders / "int8", "--manifest", folders / "test.jsonl",
        "--keyterms", terms, "--boost", "3", "--rounds", "1", "--stream-clips", "1",
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0
    assert result["family"] == "streaming" and result["keyterms"]["terms"] == 2
    assert result["stream"]["clips"] == 1 and result["stream"]["final_ms"]["max"] > 0
    assert result["wer"]["utterances"] == 2
    drawn = (tmp_path / "b" / "latency.svg").read_text()
    assert drawn.startswith("<svg xmlns=") and drawn.count("<circle") == 3


def test_a_v1_model_takes_no_key_terms(
    wheel_assets: WheelAssets, folders: Path, terms: Path, ask: Callable[..., Answer]
) -> None:
    with pytest.raises(RequestError, match="streaming models only"):
        RuntimeTranscriber(wheel_assets.runtime_dir, keyterms=("Beckett",))
    for command in ("evaluate", "benchmark"):
        code, result = ask(command, "--runtime-dir", wheel_assets.runtime_dir, "--manifest",
                          folders / "test.jsonl", "--keyterms", terms)  # fmt: skip
        assert code == 2 and "streaming models only" in result["error"]["message"]
    code, result = ask("evaluate", "--runtime-dir", wheel_assets.runtime_dir, "--manifest",
                      folders / "test.jsonl", "--context", terms)  # fmt: skip
    assert code == 2 and "streaming models only" in result["error"]["message"]
    words = ("evaluate", "--manifest", folders / "test.jsonl", "--keyterms", terms)
    code, result = ask(*words, "--base-runtime", folders / "int8")
    assert code == 2 and "only the runtime applies" in result["error"]["message"]


def test_key_terms_are_proposed_with_the_models_own_tokenizer(
    folders: Path, ask: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"audio": "a.wav", "text": "Squawk the transponder near Zaventem"}\n'
        '{"audio": "b.wav", "text": "the Zaventem tower"}\n'
    )
    out = tmp_path / "terms.txt"
    words = ["data", "keyterms", tmp_path / "m.jsonl", "--model", folders / "base", "--out", out]
    code, result = ask(*words)
    assert code == 0
    proposed = [item["term"] for item in result["terms"]]
    assert proposed[0] == "Zaventem" and "transponder" in proposed
    assert not {"the", "near", "tower"} & set(proposed)
    assert out.read_text().splitlines()[1:] == proposed
    code, result = ask(*words)
    assert code == 2 and "--force" in result["error"]["hint"]
