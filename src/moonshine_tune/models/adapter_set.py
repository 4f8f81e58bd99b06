"""Several adapters of one loaded base, one of which is in use.

Each adapter's layers are kept, all around the same base layers. Switching puts one adapter's layers
into the model and takes the others' out: no weight is read or copied, and an adapter that is not in
use costs its own matrices only.
"""

from pathlib import Path
from typing import Any

from torch import nn

from moonshine_tune.core.errors import RequestError
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.full_linear import FullLinear
from moonshine_tune.models.lora import load_adapter

_CONFIG = "peft_config"


class AdapterSet:
    """The adapters of a model by name. Not for models that train.

    Args:
        first: name of the adapter that the model has already, if it has one.
    """

    def __init__(self, model: SpeechModel, first: str | None = None) -> None:
        self._model = model
        self._layers: dict[str, dict[str, nn.Module]] = {}
        self._configs: dict[str, Any] = {}
        self._used: str | None = None
        if first is not None:
            self._keep(first)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which the adapters were added."""
        return tuple(self._layers)

    @property
    def used(self) -> str | None:
        """The name of the adapter in use; None for the base alone."""
        return self._used

    def add(self, name: str, path: Path) -> None:
        """Load an adapter of this base under a name, and use it.

        Args:
            path: run folder or adapter folder.

        Raises:
            RequestError: the name is taken, or the adapter cannot be loaded; the one in use stays.
        """
        if name in self._layers:
            raise RequestError(
                f"there is an adapter called {name!r} already", hint="choose another name"
            )
        before = self._used
        self.use(None)
        try:
            load_adapter(self._model, path)
        except BaseException:
            self._take_out(_layers_of(self._model.module))
            self.use(before)
            raise
        self._keep(name)

    def use(self, name: str | None) -> None:
        """Use an adapter from now on; None uses the base alone.

        Raises:
            RequestError: no adapter has this name.
        """
        if name is not None and name not in self._layers:
            known = ", ".join(map(repr, self._layers)) or "none is loaded"
            raise RequestError(f"no adapter is called {name!r}", hint=f"adapters: {known}")
        if name == self._used:
            return
        if self._used is not None:
            self._take_out(self._layers[self._used])
        if name is not None:
            for path, layer in self._layers[name].items():
                self._model.module.set_submodule(path, layer)
            if self._configs[name] is not None:
                setattr(self._model.module, _CONFIG, self._configs[name])
        self._used = name

    def _keep(self, name: str) -> None:
        """Keep the adapter that was just injected."""
        self._layers[name] = _layers_of(self._model.module)
        self._configs[name] = getattr(self._model.module, _CONFIG, None)
        self._used = name

    def _take_out(self, layers: dict[str, nn.Module]) -> None:
        module = self._model.module
        for path, layer in layers.items():
            module.set_submodule(path, layer.get_base_layer())  # type: ignore[operator]
        if hasattr(module, _CONFIG):
            delattr(module, _CONFIG)


def _layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """PEFT's layers of a module, or those of full fine-tuning, by their path in it."""
    from peft.tuners.lora import LoraLayer

    kinds = (LoraLayer, FullLinear)
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, kinds)}
