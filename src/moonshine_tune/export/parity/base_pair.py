"""The base model in torch and in its own runtime files: the measure for exported files.

Its transcripts depend on nothing that is trained, so they are decoded once and kept in the cache.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.fingerprint import content_key
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.export.parity.graphs import compare_weights
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.inference.transcribe import TorchTranscriber, Transcriber, transcribe_utterances
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_disabled, has_adapter
from moonshine_tune.registry.base_model import base_identity
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.runtime.formats import MOONSHINE, SHERPA_ONNX, open_runtime
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout


@dataclass(frozen=True)
class BasePair:
    """The base beside an opened model.

    Attributes:
        layout: the base's own runtime files.
        format_name: of the runtime that loads them.
    """

    opened: OpenedModel
    base: ResolvedModel
    layout: RuntimeLayout
    format_name: str = MOONSHINE

    def transcribe(
        self, utterances: Sequence[Utterance], progress: Progress
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Texts of the base in torch and in the runtime, of each utterance in order.

        Raises:
            RequestError: the runtime refuses the base's files.
            ProblemsError: recordings that cannot be read.
        """
        clips = [content_key(utterance) for utterance in utterances]
        opened = self.opened
        in_torch: list[object] = [
            base_identity(self.base)["sha256"],
            str(opened.model.dtype),
            opened.device.device.type,
            opened.limits.tokens_per_second,
            recipe_hash(
                "inference/greedy.py", "inference/decoder_session.py", "inference/transcribe.py"
            ),
        ]
        is_sherpa = self.format_name == SHERPA_ONNX
        in_runtime: list[object] = [
            [sha256_of(self.layout.folder / name) for name in self.layout.files],
            package_version("sherpa-onnx" if is_sherpa else "moonshine-voice"),
            # 8-bit sums differ between processor families in the last digit.
            platform.machine(),
            recipe_hash(f"runtime/{'sherpa_' if is_sherpa else ''}transcriber.py"),
        ]
        ways: list[tuple[str, list[object], Callable[[], AbstractContextManager[Transcriber]]]] = [
            ("torch", in_torch, self._in_torch),
            ("sherpa-onnx" if is_sherpa else "runtime", in_runtime, self._in_runtime),
        ]
        texts: list[Sequence[str]] = []
        for backend, identity, open_transcriber in ways:
            path = cached_path("parity-texts", [backend, *identity, clips])
            known: Sequence[str] | None = read_cached(path, list[str], len(clips), progress)
            if known is None:
                name = f"parity: base ({backend}), kept for later exports"
                with open_transcriber() as transcriber:
                    known = transcribe_utterances(transcriber, utterances, progress, name).texts
                write_cached(path, list(known), progress)
            texts.append(known)
        return texts[0], texts[1]

    @contextmanager
    def _in_torch(self) -> Iterator[Transcriber]:
        with _base_model(self.opened, self.base) as model:
            yield TorchTranscriber(model, self.opened.limits)

    @contextmanager
    def _in_runtime(self) -> Iterator[Transcriber]:
        with open_runtime(self.format_name, self.layout.folder) as runtime:
            yield runtime


def find_base_pair(
    opened: OpenedModel,
    base: ResolvedModel,
    folder: Path | None,
    format_name: str = MOONSHINE,
) -> tuple[BasePair | None, str]:
    """The base beside a model, and what words and WER are judged by, in a sentence.

    The sentence goes into export.json, so it holds no path of this machine.

    Args:
        folder: runtime folder of the base; None takes the one that came with it.
        format_name: of the runtime that is to load it.
    """
    fixed = "the fixed bound"
    folder = folder or base.runtime_dir
    if folder is None:
        return None, f"{fixed}: no runtime files of the base model {base.name}"
    try:
        layout = read_layout(folder)
    except RequestError as error:
        return None, f"{fixed}: {folder.name}: {error.message}"
    if layout.family != opened.model.family:
        return None, f"{fixed}: {folder.name} has runtime files of a {layout.family} model"
    with _base_model(opened, base) as model:
        weights = compare_weights(layout, model_tensors(model, with_adapter=False))
    if weights.different:
        tensor = weights.different[0].tensor
        return None, f"{fixed}: {folder.name} does not hold the base's weights ({tensor} differs)"
    through = " in sherpa-onnx" if format_name == SHERPA_ONNX else ""
    pair = BasePair(opened, base, layout, format_name)
    return pair, f"the base's own runtime files ({folder.name}){through}"


@contextmanager
def _base_model(opened: OpenedModel, base: ResolvedModel) -> Iterator[SpeechModel]:
    """The base: the opened model without its adapter, or that of a fully tuned checkpoint."""
    if has_adapter(opened.model):
        with adapter_disabled(opened.model):
            yield opened.model
    elif base is opened.resolved:
        yield opened.model
    else:
        yield load_checkpoint(base.checkpoint_dir, device=opened.device.device)
