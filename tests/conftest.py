"""What all tests share: isolation, small random models of both families, the real tiny model.

Nothing here imports torch before a test asks for a model.
"""

import gc
import json
import math
import os
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.command_line import ask  # noqa: F401
from tests.shared_folder import once
from tests.training_runs import streaming_training, training  # noqa: F401

if TYPE_CHECKING:
    from torch import nn

    from moonshine_tune.models.base import SpeechModel, TextTokenizer
    from moonshine_tune.registry.resolve import ResolvedModel
    from moonshine_tune.registry.wheel import WheelAssets

Samples = npt.NDArray[np.float32]

# One thread for each of the processes that share the tests: more of them wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_ROOT = Path(__file__).resolve().parents[1]
_CHARACTERS = "▁abcdefghijklmnopqrstuvwxyz'.,?-0123456789"
_NEAR = {"localhost", "127.0.0.1", "::1", "0.0.0.0", ""}
# Read before any test changes the environment: the place where the real model is kept.
_TOLD_CACHE = os.environ.get("MOONSHINE_TUNE_CACHE", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: whichever of two processes gets one last works on it alone."""
    items.sort(key=lambda item: item.get_closest_marker("takes_minutes") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the modules of tests load is no garbage, and stays: it is never looked through.

    That took a fifth of the time of a training.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


# --- isolation


def _is_real(request: pytest.FixtureRequest) -> bool:
    named = {"wheel_assets", "real_tiny"} & set(request.fixturenames)
    return bool(named) or request.node.get_closest_marker("real_model") is not None


@pytest.fixture(autouse=True)
def _isolated(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A cache of its own and no way out, for every test but those on the real model."""
    if _is_real(request):
        return
    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(tmp_path_factory.mktemp("cache") / "cache"))
    for name in ("PIP_NO_INDEX", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def near_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _NEAR:
            raise OSError(f"this test may not reach {address[0]}")
        connect(self, address)

    def near_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(host, str) and host not in _NEAR:
            raise socket.gaierror(f"this test may not look up {host}")
        return look_up(host, *rest, **named)

    monkeypatch.setattr(socket.socket, "connect", near_connect)
    monkeypatch.setattr(socket, "getaddrinfo", near_look_up)


@pytest.fixture(autouse=True, scope="session")
def _hang_ups_end_processes() -> None:
    """A suite that runs under `nohup` ignores SIGHUP, and the program would respect that."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Handlers of signals are as before after the test."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that share these tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


# --- small random models


def _characters_tokenizer() -> "TextTokenizer":
    """One token a character, every other character as its bytes; ids 0, 1, 2 are special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    from moonshine_tune.models.base import TextTokenizer

    special = ["<unk>", "<s>", "</s>"]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *_CHARACTERS]
    vocabulary = {word: index for index, word in enumerate(words)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw.add_special_tokens([AddedToken(word, special=True) for word in special])
    return TextTokenizer(raw)


def _small_config(family: str, vocabulary: int) -> Any:
    from transformers import AutoConfig

    if family == "v1":
        return AutoConfig.for_model(
            "moonshine", vocab_size=vocabulary, hidden_size=32, intermediate_size=64,
            encoder_num_hidden_layers=2, decoder_num_hidden_layers=2,
            encoder_num_attention_heads=4, decoder_num_attention_heads=4,
            encoder_num_key_value_heads=4, decoder_num_key_value_heads=4,
            max_position_embeddings=96,
        )  # fmt: skip
    encoder = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4,
        # One window that looks ahead and one that does not, both far shorter than the clips.
        "sliding_windows": ((16, 4), (16, 0)),
    }  # fmt: skip
    return AutoConfig.for_model(
        "moonshine_streaming", encoder_config=encoder, vocab_size=vocabulary, hidden_size=32,
        intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=512, decoder_start_token_id=1,
    )  # fmt: skip


def _spread_weights(module: "nn.Module") -> None:
    """Weights large enough that answers differ; norms and biases that differ from each other."""
    import torch

    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("log_k"):
                continue
            noise = torch.randn_like(value)
            if "embed_tokens" in name or name == "proj_out.weight":
                # Small for bytes, so that a random model spells with letters and spaces.
                noise[3:259] *= 0.3
                value.copy_(0.2 * noise)
            elif "pos_emb" in name:
                value.copy_(0.1 * noise)
            elif value.dim() > 1:
                value.copy_(noise / math.sqrt(value[0].numel()))
            elif "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            else:
                value.copy_(0.2 * noise)
        # The spectrum of noise is flat: without this the first convolution answers weakly.
        for name, value in module.named_parameters():
            if name.endswith(("encoder.conv1.weight", "embedder.linear.weight")):
                value.mul_(3.0)
            # Found by trial: answers of many different tokens that depend on what is heard.
            if "decoder" in name and "encoder_attn" in name:
                value.mul_(0.6)
            if "decoder" in name and ("q_proj" in name or "k_proj" in name):
                value.mul_(1.5)
            if "decoder" in name and "mlp.fc" in name:
                value.mul_(3.0)


def build_tiny(family: str, *, seed: int = 0) -> "SpeechModel":
    """A random model of two by two layers and about 340 tokens, in evaluation mode."""
    import torch
    from transformers import AutoModelForSpeechSeq2Seq

    from moonshine_tune.models.checkpoint import wrap_module

    tokenizer = _characters_tokenizer()
    vocabulary = -(-tokenizer.vocabulary_size // 8) * 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForSpeechSeq2Seq.from_config(
            _small_config(family, vocabulary), attn_implementation="sdpa"
        )
        _spread_weights(module)
    module.eval()
    module.requires_grad_(False)
    return wrap_module(module, tokenizer)


@pytest.fixture(scope="session")
def build_model() -> Callable[..., "SpeechModel"]:
    """`build_model("v1" or "streaming", seed=0)` makes a small random model."""
    return build_tiny


@pytest.fixture
def tiny_v1() -> "SpeechModel":
    """A small random v1 model, new for each test."""
    return build_tiny("v1")


@pytest.fixture
def tiny_streaming() -> "SpeechModel":
    """A small random streaming model, new for each test."""
    return build_tiny("streaming")


@pytest.fixture(params=["v1", "streaming"])
def tiny_model(request: pytest.FixtureRequest) -> "SpeechModel":
    """The test runs twice: with a small random model of each family."""
    return build_tiny(request.param)


def _save(model: "SpeechModel", folder: Path) -> Path:
    model.module.save_pretrained(folder)
    model.tokenizer.raw.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def save_model() -> Callable[["SpeechModel", Path], Path]:
    """`save_model(model, folder)` writes a folder that `load_checkpoint` reads."""
    return _save


@pytest.fixture(scope="session")
def saved_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`save_pretrained` folder of the small v1 model. Read only."""
    return _save(build_tiny("v1"), tmp_path_factory.mktemp("models") / "small-v1")


@pytest.fixture(scope="session")
def saved_streaming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`save_pretrained` folder of the small streaming model. Read only."""
    return _save(build_tiny("streaming"), tmp_path_factory.mktemp("models") / "small-streaming")


# --- sound


def clip_of(seconds: float, seed: int = 0) -> Samples:
    """A clip that sounds like no other: tones that change, with some noise; mono 16 kHz."""
    chance = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    time = np.arange(count) / 16_000
    total = 0.05 * chance.standard_normal(count)
    for _ in range(4):
        pitch, wobble, phase = chance.uniform(90, 900), chance.uniform(1, 6), chance.uniform(0, 6)
        total += 0.12 * np.sin(2 * np.pi * pitch * time + np.sin(wobble * 2 * np.pi * time) + phase)
    return total.astype(np.float32)


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Samples]:
    """`make_clip(seconds, seed)`: a synthetic clip, mono float32 at 16 kHz."""
    return clip_of


OVERFIT_TEXTS = ("one", "it was the best of times", "two cities", "all of it")


def _overfit(model: "SpeechModel", clips: "list[Samples]") -> None:
    import torch

    from moonshine_tune.inference.batching import pad_clips
    from moonshine_tune.models.losses import cross_entropy_sum, target_batch

    targets = target_batch([model.tokenizer.encode(text) for text in OVERFIT_TEXTS], "cpu")
    audio, counts = pad_clips(clips, model.device)
    parameters = [value.requires_grad_(True) for value in model.module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    for _ in range(150):
        logits = model.decoder_logits(model.encode(audio, counts), targets.input_ids)
        loss = cross_entropy_sum(logits, targets.targets) / targets.num_targets
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    model.module.requires_grad_(False)


@pytest.fixture(scope="session", params=["v1", "streaming"])
def overfitted(
    request: pytest.FixtureRequest, common: Path
) -> "tuple[SpeechModel, list[Samples], list[str]]":
    """A small model that has learnt four clips by heart, the clips, their texts. Read only."""
    import torch

    model = build_tiny(request.param, seed=1)
    clips = [clip_of(0.9 + 0.4 * seed, seed) for seed in range(len(OVERFIT_TEXTS))]
    folder = common / f"overfitted-{request.param}"
    with once(folder) as is_new, _on_one_thread():
        if is_new:
            _overfit(model, clips)
            torch.save(model.module.state_dict(), folder / "weights.pt")
    model.module.load_state_dict(torch.load(folder / "weights.pt"))
    return model, clips, list(OVERFIT_TEXTS)


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic recordings with manifests. Read only.

    `train.jsonl` (8 clips of 4 speakers), `dev.jsonl` (3), and `canary.jsonl` (3) and
    `replay.jsonl` (5), both without texts.
    """
    import soundfile

    folder = tmp_path_factory.mktemp("speech")
    texts = [
        "one", "two cities", "best of times", "worst", "age of wisdom", "it was", "far", "and the",
        "one two", "the age", "of times",
    ]  # fmt: skip
    names: dict[str, list[str] | list[None]] = {
        "train": texts[:8], "dev": texts[8:], "canary": [None] * 3, "replay": [None] * 5
    }  # fmt: skip
    seed = 0
    for name, spoken in names.items():
        lines = []
        for place, text in enumerate(spoken):
            seed += 1
            seconds = 0.4 + 0.17 * (seed % 7)
            soundfile.write(folder / f"{name}-{place}.wav", clip_of(seconds, seed), 16_000)
            record = {"id": f"{name}-{place}", "audio": f"{name}-{place}.wav",
                      "speaker": f"{name}-{place % 4}"}  # fmt: skip
            lines.append(json.dumps(record | ({"text": text} if text else {})) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


# --- the real tiny model and real recordings


@pytest.fixture(scope="session")
def wheel_assets() -> "WheelAssets":
    """Runtime files and recordings of the pinned wheel, downloaded where they are missing."""
    from moonshine_tune.core.errors import SourceUnreachableError
    from moonshine_tune.core.progress import SilentProgress
    from moonshine_tune.registry.wheel import fetch_wheel_assets

    try:
        return fetch_wheel_assets(_real_cache(), SilentProgress())
    except SourceUnreachableError as error:
        pytest.skip(f"the real model cannot be had: {error.message}")


@pytest.fixture(scope="session")
def real_tiny(wheel_assets: "WheelAssets") -> "ResolvedModel":
    """The real tiny, rebuilt from the wheel's runtime files and kept in the program's cache."""
    from moonshine_tune.registry.resolve import resolve_model

    return resolve_model("tiny", cache=_real_cache(), sources=("cache", "wheel"))


@pytest.fixture(scope="session")
def real_cache() -> Path:
    """The program's cache, in which the real model is kept."""
    return _real_cache()


def _real_cache() -> Path:
    from moonshine_tune.core.hardware import cache_root

    return Path(_TOLD_CACHE).expanduser().absolute() if _TOLD_CACHE else cache_root()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings beside the project."""
    told = os.environ.get("MOONSHINE_TUNE_SHARED_DATA", "")
    folder = Path(told) if told else _ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}")
    return folder


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """Where other processes run beside, threads that wait for each other take 30 times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small products are fastest on one thread. Asked for by whole modules."""
    with _on_one_thread():
        yield
