"""Each graph of a runtime folder, run by onnxruntime, beside the same stage in torch.

Each graph gets torch's input of its stage, so that a difference is the difference of that graph
alone and not of the graphs before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import first_line
from moonshine_tune.models.base import BOS_ID, EncoderStates, SpeechModel
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.quantized import Floats


@dataclass(frozen=True)
class StageOutput:
    """One output of one graph, from the graph and from torch, of the same shape."""

    graph: str
    output: str
    from_graph: Floats
    from_torch: Floats


class RuntimeGraphs(ABC):
    """The graphs of one runtime folder, loaded."""

    def __init__(self, layout: RuntimeLayout) -> None:
        self.layout = layout
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """All outputs of a graph.

        Raises:
            RequestError: onnxruntime cannot load the file, or it needs other inputs.
        """
        session = self.session(graph)
        names = {item.name for item in session.get_inputs()}
        try:
            outputs: list[npt.NDArray[Any]] = session.run(
                None, {name: value for name, value in feeds.items() if name in names}
            )
        except Exception as error:  # onnxruntime has its own exceptions
            raise RequestError(
                f"onnxruntime cannot run this graph: {first_line(error)}",
                where=self.layout.folder / graph,
            ) from error
        return outputs

    def session(self, graph: str) -> Any:
        """The loaded session of a graph file, on the CPU.

        Raises:
            RequestError: the file is damaged, or needs another onnxruntime.
        """
        if graph in self._sessions:
            return self._sessions[graph]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Two threads: the graphs are small, and tests share the machine.
        options.intra_op_num_threads = 2
        path = self.layout.folder / graph
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has its own exceptions
            raise RequestError(
                f"onnxruntime cannot load this graph: {first_line(error)}",
                where=path,
                hint="the file may be cut off or altered; fetch or export it again",
            ) from error
        self._sessions[graph] = session
        return session

    @abstractmethod
    def compare_encoder(self, model: SpeechModel, clip: Floats) -> list[StageOutput]:
        """The outputs of the graphs before the decoder, in the order in which they run."""

    @abstractmethod
    def compare_decoder(
        self, model: SpeechModel, states: EncoderStates, tokens: list[int]
    ) -> list[StageOutput]:
        """The decoder's logits [L, V] after the start token and each of `tokens`."""


class V1Graphs(RuntimeGraphs):
    """`encoder_model` and `decoder_model_merged`."""

    def compare_encoder(self, model: SpeechModel, clip: Floats) -> list[StageOutput]:
        """Encoder states of a clip."""
        (states,) = self.run(
            "encoder_model.ort",
            {"input_values": clip[None], "attention_mask": np.ones((1, len(clip)), np.int64)},
        )
        expected = encode_clip(model, clip)
        return [StageOutput("encoder_model.ort", "states", states, expected.values.numpy())]

    def compare_decoder(
        self, model: SpeechModel, states: EncoderStates, tokens: list[int]
    ) -> list[StageOutput]:
        """Token by token with the cache, as the runtime runs it."""
        name = "decoder_model_merged.ort"
        session = self.session(name)
        names = [item.name for item in session.get_outputs()]
        hidden = states.values.cpu().numpy()
        samples = hidden.shape[1] * model.samples_per_frame
        feeds: dict[str, npt.NDArray[Any]] = {
            "encoder_hidden_states": hidden,
            # The graph reduces a mask of samples to one of frames.
            "encoder_attention_mask": np.ones((1, samples), np.int64),
            "use_cache_branch": np.array([False]),
        }
        past = {
            item.name: item.shape
            for item in session.get_inputs()
            if item.name.startswith("past_key_values.")
        }
        for key, shape in past.items():
            # At the first step the runtime passes one row that is not a past. The graph must
            # ignore it, so ones in place of its zeros show a graph that does not.
            feeds[key] = np.ones((1, shape[1], 1, shape[3]), np.float32)
        rows = []
        for position, token in enumerate([BOS_ID, *tokens]):
            values = self.run(name, feeds | {"input_ids": _ids([token])})
            outputs = dict(zip(names, values, strict=True))
            rows.append(outputs["logits"][0, -1])
            for key in past:
                # The keys and values of the encoder come from the first step only.
                if position == 0 or ".encoder." not in key:
                    feeds[key] = outputs[key.replace("past_key_values", "present")]
            feeds["use_cache_branch"] = np.array([True])
        return [StageOutput(name, "logits", np.stack(rows), _logits(model, states, tokens))]


class StreamingGraphs(RuntimeGraphs):
    """`frontend`, `encoder`, the adapter graph, `cross_kv` and `decoder_kv`."""

    def compare_encoder(self, model: SpeechModel, clip: Floats) -> list[StageOutput]:
        """Features, encoder states, memory, cross-attention keys and values of a clip."""
        frame = int(model.encoder.embedder.frame_len)
        clip = clip[: len(clip) // frame * frame]
        features, states = _features_and_states(model, clip)
        with torch.inference_mode():
            memory = model.attended_states(states)
        keys, values = cross_keys_and_values(model, memory)
        graph_features = self._run_frontend(clip)
        (encoded,) = self.run("encoder.ort", {"features": features})
        feeds = {"encoded": states.values.numpy(), "pos_offset": np.zeros(1, np.int64)}
        (adapted,) = self.run("adapter.ort", feeds)
        graph_keys, graph_values = self.run("cross_kv.ort", {"memory": memory.numpy()})
        return [
            StageOutput(self._frontend, "features", graph_features, features),
            StageOutput("encoder.ort", "encoded", encoded, states.values.numpy()),
            StageOutput("adapter.ort", "memory", adapted, memory.numpy()),
            StageOutput("cross_kv.ort", "k_cross", graph_keys, keys),
            StageOutput("cross_kv.ort", "v_cross", graph_values, values),
        ]

    def compare_decoder(
        self, model: SpeechModel, states: EncoderStates, tokens: list[int]
    ) -> list[StageOutput]:
        """All tokens in one call, with an empty cache."""
        with torch.inference_mode():
            keys, values = cross_keys_and_values(model, model.attended_states(states))
        empty = np.zeros((*keys.shape[:3], 0, keys.shape[4]), np.float32)
        outputs = self.run(
            "decoder_kv.ort",
            {"token": _ids([BOS_ID, *tokens]), "k_self": empty, "v_self": empty,
             "out_k_cross": keys, "out_v_cross": values},
        )  # fmt: skip
        expected = _logits(model, states, tokens)
        return [StageOutput("decoder_kv.ort", "logits", outputs[0][0], expected)]

    @property
    def _frontend(self) -> str:
        return next(name for name in self.layout.files if name.startswith("frontend"))

    def _run_frontend(self, clip: Floats) -> Floats:
        feeds: dict[str, npt.NDArray[Any]] = {"audio_chunk": clip[None]}
        if self._frontend == "frontend.model.ort":
            # The graph of the weights runs once and feeds the graph of the front end.
            weights = self.session("frontend.weights.ort")
            names = [item.name for item in weights.get_outputs()]
            feeds |= dict(zip(names, self.run("frontend.weights.ort", {}), strict=True))
        for item in self.session(self._frontend).get_inputs():
            if item.name not in feeds:
                kind = np.int64 if item.type == "tensor(int64)" else np.float32
                feeds[item.name] = np.zeros(item.shape, kind)
        return np.asarray(self.run(self._frontend, feeds)[0], np.float32)


def open_graphs(layout: RuntimeLayout) -> RuntimeGraphs:
    """The graphs of a runtime folder of either family."""
    return V1Graphs(layout) if layout.family == "v1" else StreamingGraphs(layout)


@torch.inference_mode()
def cross_keys_and_values(model: SpeechModel, memory: torch.Tensor) -> tuple[Floats, Floats]:
    """Cross-attention keys and values of every layer, [layers, 1, heads, T, head width]."""
    keys: list[Floats] = []
    values: list[Floats] = []
    for layer in model.decoder.layers:
        attention = layer.encoder_attn
        for stack, project in ((keys, attention.k_proj), (values, attention.v_proj)):
            heads = project(memory).view(1, memory.shape[1], -1, attention.head_dim)
            stack.append(heads.transpose(1, 2).numpy())
    return np.stack(keys), np.stack(values)


@torch.inference_mode()
def encode_clip(model: SpeechModel, clip: Floats) -> EncoderStates:
    """Encoder states of one clip, by torch."""
    return model.encode(torch.from_numpy(clip)[None], [len(clip)])


def _features_and_states(model: SpeechModel, clip: Floats) -> tuple[Floats, EncoderStates]:
    """The input of the streaming encoder's first layer, and the encoder states."""
    features: list[torch.Tensor] = []

    def forward_pre_hook(_module: Any, arguments: tuple[Any, ...]) -> None:
        features.append(arguments[0].clone())

    hook = model.encoder.layers[0].register_forward_pre_hook(forward_pre_hook)
    try:
        states = encode_clip(model, clip)
    finally:
        hook.remove()
    return features[0].numpy(), states


@torch.inference_mode()
def _logits(model: SpeechModel, states: EncoderStates, tokens: list[int]) -> Floats:
    ids = torch.tensor([[BOS_ID, *tokens]])
    logits: Floats = model.decoder_logits(states, ids)[0].float().numpy()
    return logits


def _ids(tokens: list[int]) -> npt.NDArray[np.int64]:
    return np.array([tokens], np.int64)
