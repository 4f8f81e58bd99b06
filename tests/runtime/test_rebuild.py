"""The rebuilt tiny model against the runtime that it was rebuilt from, on real speech."""

from pathlib import Path

import numpy as np
import pytest

from moonshine_tune.audio.io import load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.export.parity.gate import compare_transcripts
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import DecodeLimits
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def pieces(wheel_assets: WheelAssets) -> list[np.ndarray]:
    """The wheel's three recordings in pieces of 10 s."""
    step = 10 * SAMPLE_RATE_HZ
    recordings = [
        load_audio(path)
        for path in (wheel_assets.two_cities, wheel_assets.beckett, wheel_assets.endgame)
    ]
    return [clip[i : i + step] for clip in recordings for i in range(0, len(clip), step)]


def test_the_rebuilt_model_says_what_the_runtime_says(
    real_tiny: ResolvedModel, wheel_assets: WheelAssets, pieces: list[np.ndarray]
) -> None:
    model = load_checkpoint(real_tiny.checkpoint_dir)
    expected = TorchTranscriber(model, DecodeLimits()).transcribe(pieces)
    with RuntimeTranscriber(wheel_assets.runtime_dir) as runtime:
        transcripts = runtime.transcribe(pieces)
    parity = compare_transcripts(transcripts, expected, normalizer_for(None), bound=3.0)
    assert parity.clips == 9
    assert parity.passed, parity
    assert expected[5] == (
        "Ever tried, ever failed, no matter, try again, fail again, fail better."
    )


def test_transcripts_and_states_do_not_depend_on_the_batch(
    real_tiny: ResolvedModel, pieces: list[np.ndarray]
) -> None:
    import torch

    from moonshine_tune.inference.batching import pad_clips

    model = load_checkpoint(real_tiny.checkpoint_dir)
    clips = [pieces[5][: 4 * SAMPLE_RATE_HZ], *pieces]
    transcriber = TorchTranscriber(model, DecodeLimits())
    together = transcriber.transcribe(clips)
    alone = [transcriber.transcribe([clip])[0] for clip in clips]
    assert together == alone
    with torch.inference_mode():
        batch, counts = pad_clips(clips[:2], model.device)
        padded = model.encode(batch, counts).select([0]).values
        single = model.encode(torch.from_numpy(clips[0])[None], counts[:1]).values
    assert padded.shape == single.shape
    assert float((padded - single).norm() / single.norm()) < 1e-5


def test_a_rebuilt_folder_loads_by_transformers_alone(real_tiny: ResolvedModel) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(real_tiny.checkpoint_dir)
    assert config.model_type == "moonshine"
    files = {path.name for path in Path(real_tiny.checkpoint_dir).iterdir()}
    assert {"model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= files
