"""Second moments of what an adapter's layers read, and an adapter that leaves some inputs alone."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moonshine_tune.core.device import full_precision
from moonshine_tune.models.base import EOS_ID, EncoderStates, SpeechModel, length_mask
from moonshine_tune.models.kernels.full_linear import FULL_WEIGHT, FullLinear
from moonshine_tune.models.lora import ADAPTER_NAME

# Training clips that a filter looks at: at the end, where more change the result less than another
# seed does, and at a score, where the next filter makes up for fewer.
FINAL_CLIPS, SCORE_CLIPS = 160, 48
_DOWN = f".lora_A.{ADAPTER_NAME}.weight"
# Share of the mean variance that is added to each direction: none has exactly zero.
_FLOOR = 1e-4
# Layers of the decoder that read the encoder's frames.
_READS_FRAMES = re.compile(r"\.encoder_attn\.[kv]_proj\.")


class InputCovariance:
    """The mean of x xᵀ over the input rows x of each layer that trains.

    Layers that read one tensor, such as queries, keys and values, share a matrix.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        # The layer whose sum each layer shares, and the tensor that was read last.
        self._shared: dict[str, str] = {}
        self._last: tuple[Tensor, str] | None = None
        # Of the clips that the model is run on.
        self._frames: tuple[int, ...] = ()
        self._tokens: tuple[int, ...] = ()

    @property
    def names(self) -> Sequence[str]:
        """Full names of the matrices that read the inputs: A, or the layer's own if it trains."""
        return list(self._shared)

    @contextmanager
    def collect(self, model: SpeechModel) -> Iterator[None]:
        """Add the inputs of all forward passes inside the block; padding is left out."""
        with ExitStack() as stack:
            stack.enter_context(self._lengths_of(model))
            for name, layer in model.module.named_modules():
                is_lora = ADAPTER_NAME in getattr(layer, "lora_A", {})
                if is_lora or isinstance(layer, FullLinear):
                    matrix = _DOWN if is_lora else f".{FULL_WEIGHT}"
                    hook = layer.register_forward_pre_hook(self._hook(name + matrix))
                    stack.callback(hook.remove)
            yield
        self._last = None

    def mean(self, name: str) -> np.ndarray:
        """Mean of x xᵀ of a layer [in, in], in 64 bits, which MPS lacks."""
        layer = self._shared[name]
        return self._sums[layer].cpu().numpy().astype(np.float64) / self._rows[layer]

    @contextmanager
    def _lengths_of(self, model: SpeechModel) -> Iterator[None]:
        """Note the frames and tokens of the clips that the model is run on inside the block."""
        run_layers, run_decoder = model.encoder_layers, model.decoder_hidden

        def encoder_layers(features: EncoderStates) -> EncoderStates:
            self._frames = features.lengths
            return run_layers(features)

        def decoder_hidden(states: EncoderStates, input_ids: Tensor) -> Tensor:
            self._frames = states.lengths
            # The start, and a text: the end is what rows are padded with.
            self._tokens = tuple((input_ids != EOS_ID).sum(dim=1).tolist())
            return run_decoder(states, input_ids)

        changed: Any = model
        changed.encoder_layers, changed.decoder_hidden = encoder_layers, decoder_hidden
        try:
            yield
        finally:
            del changed.encoder_layers, changed.decoder_hidden

    def add(self, name: str, values: Tensor, lengths: Sequence[int] | None = None) -> None:
        """Add the rows that a layer reads.

        Args:
            values: [..., in], or [B, L, in] with `lengths`.
            lengths: rows of each clip that are no padding; None where none is.
        """
        if self._last is not None and self._last[0].data_ptr() == values.data_ptr():
            self._shared[name] = self._last[1]
            return
        self._shared[name] = name
        self._last = (values, name)
        count = values[..., 0].numel() if lengths is None else sum(lengths)
        if lengths is not None:
            # As zeros: rows that are cut off would be a new shape for each clip.
            mask = length_mask(lengths, values.shape[1], values.device)
            values = values if mask is None else values * mask[..., None]
        rows = values.reshape(-1, values.shape[-1]).float()
        # Stays on the device: reading it would wait for each layer.
        with full_precision(rows.device):
            product = rows.T @ rows
        self._sums[name] = self._sums[name].add_(product) if name in self._sums else product
        self._rows[name] = self._rows.get(name, 0) + count

    def _hook(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        reads_tokens = ".decoder.layers." in name and not _READS_FRAMES.search(name)

        def add(_: Any, arguments: tuple[Any, ...]) -> None:
            lengths = self._tokens if reads_tokens else self._frames
            self.add(name, arguments[0].detach(), lengths)

        return add


def filtered(
    state: Mapping[str, Tensor],
    domain: InputCovariance,
    general: InputCovariance,
    weight: float,
    base: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The adapter without what it does to general inputs and the domain's do not need.

    Of all changes B·A′ it is the one with the least E‖B(A′ − A)x‖² over the domain's inputs plus
    `weight` · E‖B A′ x‖² over general ones: A′ = A C (C + weight · G)⁻¹ with their second moments C
    and G. Directions that only the domain has stay as they are, those that only general speech has
    go, and what both have alike is divided by 1 + weight. Of full fine-tuning, the change is the
    difference between the matrix and the base's, and takes the place of A.

    Args:
        state: parameters by name in 32 bits, as of `adapter_state`.
        base: the base's matrices of full fine-tuning, by the same names.
    """
    result = dict(state)
    base = base or {}
    for name in domain.names:
        own, spared = domain.mean(name), general.mean(name)
        floor = _FLOOR * own.diagonal().mean()
        total = own + weight * spared + floor * np.eye(len(own))
        start = base[name].float().cpu().numpy() if name in base else np.float32(0)
        change = np.linalg.solve(total, own @ (state[name].numpy() - start).T).T
        result[name] = torch.from_numpy(np.ascontiguousarray(start + change, dtype=np.float32))
    return result
