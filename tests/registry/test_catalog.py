"""The catalog of models: names, aliases, sources, and agreement with Moonshine's own catalog."""

import subprocess
import sys

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.registry.catalog import MODELS, find_model, known_names, lookup_model


def test_names_and_hub_ids_are_unique() -> None:
    names = known_names()
    assert len(names) == len(set(names))
    hub_ids = [hub_id for record in MODELS for hub_id in record.hub_ids]
    assert len(hub_ids) == len(set(hub_ids))


def test_every_alias_leads_to_a_model() -> None:
    assert find_model("medium").name == "streaming-medium"
    for name in known_names():
        assert find_model(name).name in {record.name for record in MODELS}


def test_the_name_is_read_in_any_case_and_the_new_organization_comes_first() -> None:
    record = find_model(" Streaming-Tiny ")
    assert record.family == "streaming"
    assert record.hub_ids == (
        "moonshine-ai/moonshine-streaming-tiny",
        "UsefulSensors/moonshine-streaming-tiny",
    )


def test_a_hub_id_of_the_catalog_is_its_model() -> None:
    assert lookup_model("usefulsensors/moonshine-tiny-ko") is find_model("tiny-ko")
    assert lookup_model("somebody/moonshine-tiny") is None


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RequestError) as caught:
        find_model("streeming-small")
    assert caught.value.hint is not None
    assert "streaming-small" in caught.value.hint
    with pytest.raises(RequestError) as caught:
        find_model("whisper-large-v3")
    assert "models list" in str(caught.value.hint)


def test_decoding_limits_and_licenses_follow_the_language() -> None:
    assert find_model("base-es").tokens_per_second == 6.5
    assert find_model("tiny-ja").tokens_per_second == 13.0
    assert find_model("tiny").license == "MIT"
    assert "Community" in find_model("streaming-small-de").license


def test_only_tiny_is_in_the_wheel() -> None:
    assert [record.name for record in MODELS if record.in_wheel] == ["tiny"]


def test_the_store_keys_are_those_of_the_runtime_package() -> None:
    """Both ways: no model of the store is missing here, and none is invented."""
    download = pytest.importorskip("moonshine_voice.download")
    theirs = {
        (language, model["model_arch"].name)
        for language, entry in download._stt_catalog().items()
        for model in entry["models"]
    }
    ours = {(record.language, record.store) for record in MODELS if record.store}
    assert ours == theirs


def test_the_catalog_loads_nothing_heavy() -> None:
    code = (
        "import sys, moonshine_tune.registry.catalog; "
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
