"""The preset that a model is trained with where none is named."""

from collections.abc import Sequence

from moonshine_tune.config.resolve import Layer, read_preset
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.names import home_expanded
from moonshine_tune.core.nested import flatten
from moonshine_tune.registry.catalog import lookup_model
from moonshine_tune.registry.published_configs import config_of_folder

# From here on, frozen weights in 16 bits and an encoder that stays frozen are worth their price.
_MANY_PARAMETERS = 100e6
_WIDE = 500


def preset_of(model: str) -> str:
    """`medium` for the shapes small and medium, else `tiny`.

    Args:
        model: a catalog name, hub id or checkpoint folder; an unknown one is taken as small.
    """
    record = lookup_model(model)
    if record is not None:
        return "medium" if record.parameters >= _MANY_PARAMETERS else "tiny"
    try:
        config = config_of_folder(home_expanded(model))
    except (RequestError, OSError):
        # Whether the model is there is checked when it is opened.
        return "tiny"
    return "medium" if config.hidden_size >= _WIDE else "tiny"


def with_model_preset(layers: Sequence[Layer]) -> list[Layer]:
    """The layers on top of the model's preset; as they are if they have a preset already."""
    if any(source.startswith("preset ") for source, _ in layers):
        return list(layers)
    named = [value for _, content in layers for key, value in flatten(content) if key == "model"]
    model = str(named[-1]) if named else RunSettings().model
    name = preset_of(model)
    content = {key: value for key, value in read_preset(name).items() if key != "model"}
    return [(f"preset {name}", content), *layers]
