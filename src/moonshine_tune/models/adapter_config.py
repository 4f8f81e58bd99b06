"""PEFT's adapter configurations: which fields are honored, which have no effect, what is refused.

Every field of the installed `LoraConfig` is in one of these groups. A field that this program does
not know, of a later PEFT, is refused as soon as it is set.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.models.files import names_of

FULL = "FULL"
"""`peft_type` of a folder with the matrices of full fine-tuning, which PEFT cannot load."""

HONORED = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora",
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
)  # fmt: skip
"""Fields that decide what a trained adapter computes, passed on to PEFT."""

WITHOUT_EFFECT = frozenset({
    # Where it comes from; the model is named by the user and checked by its weights.
    "base_model_name_or_path", "revision", "auto_mapping", "task_type", "peft_version",
    # For training, or for parts that are refused where they are in use.
    "lora_dropout", "inference_mode", "runtime_config", "megatron_core", "qalora_group_size",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",
})  # fmt: skip
"""Fields that change nothing in the output of a trained adapter."""

PLAIN_STARTS: tuple[Any, ...] = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of `init_lora_weights` that leave the base as it is."""
ALTERING_STARTS = ("pissa", "olora")
"""Values that take a part of the base's weights out of it, which the base itself determines."""

_CONVERT = (
    "in the program that trained it, save it as plain LoRA: "
    "model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=START), where START is "
    "the adapter saved before the first step; or merge it there, and give the merged checkpoint as "
    "--model"
)
_MERGE = "merge it with the tool that made it, and give the merged checkpoint as --model"


def lora_fields(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments for `LoraConfig` that reproduce a saved adapter.

    Args:
        fields: the content of `adapter_config.json`, which is `path`.

    Raises:
        RequestError: a part that is not applied here; names all such fields.
    """
    kind = fields.get("peft_type")
    if kind == FULL:
        raise RequestError(
            "these are the matrices of full fine-tuning, and this works with LoRA adapters only",
            where=path,
            hint=f"merge them first: moonshine-tune merge --run {quoted(path.parent)} --out merged",
        )
    if kind not in (None, "LORA"):
        raise RequestError(
            f"peft_type {kind!r}: only LoRA adapters can be applied", where=path, hint=_MERGE
        )
    start = start_of(fields)
    if start not in PLAIN_STARTS and start not in ALTERING_STARTS:
        raise RequestError(
            f"init_lora_weights {start!r}: it changed the base's weights before training, in a "
            "way that cannot be repeated from this folder",
            where=path,
            hint=_CONVERT,
        )
    wrong = [f"{key} {value!r}" for key, value in fields.items() if not _is_applied(key, value)]
    if wrong:
        raise RequestError(
            f"this adapter holds more than LoRA matrices: {', '.join(wrong)}",
            where=path,
            hint=_MERGE,
        )
    _refuse_malformed(fields, path)
    return {key: fields[key] for key in HONORED if fields.get(key) is not None}


def _refuse_malformed(fields: Mapping[str, Any], path: Path) -> None:
    """Refuse values of other types than PEFT writes, which it takes in a meaning of their own.

    `"use_rslora": "no"` is true to PEFT, and `"lora_alpha": null` would become its default.

    Raises:
        RequestError: names all such fields.
    """
    wrong = [
        f"{key} {value!r} (expected: {expected})"
        for key, (is_right, expected) in _FORMS.items()
        if not is_right(value := fields.get(key, _FORM_DEFAULTS.get(key)))
    ]
    if wrong:
        raise RequestError(
            f"values that PEFT does not write: {', '.join(wrong)}",
            where=path,
            hint="copy the file again from the adapter's folder",
        )


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= _LARGEST_NUMBER


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_RANK


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return value is None or isinstance(value, str) or _is_list_of(value, str)


def _is_layers(value: Any) -> bool:
    return value is None or isinstance(value, int) or _is_list_of(value, int)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(item, kind) for item in value)


def _is_pattern(is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        value is None or (isinstance(value, dict) and all(map(is_value, value.values())))
    )


# No layer of a Moonshine model is so wide.
_LARGEST_RANK = 65_536
# What 32 bits hold, and neither NaN nor an integer of hundreds of digits.
_LARGEST_NUMBER = 3e38
_FLAG = (_is_flag, "true or false")
_NAMES = (_is_names, "a name, a pattern or a list of names")
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, f"a whole number from 1 to {_LARGEST_RANK}"),
    "lora_alpha": (_is_number, "a number"),
    "target_modules": _NAMES,
    "exclude_modules": _NAMES,
    "use_rslora": _FLAG,
    "use_dora": _FLAG,
    "rank_pattern": (_is_pattern(_is_rank), "ranks by name"),
    "alpha_pattern": (_is_pattern(_is_number), "numbers by name"),
    "layers_to_transform": (_is_layers, "a number or a list of numbers"),
    "layers_pattern": _NAMES,
    "fan_in_fan_out": _FLAG,
}
# Those of PEFT, for the fields that cannot be null.
_FORM_DEFAULTS = {"r": 8, "lora_alpha": 8}


def start_of(fields: Mapping[str, Any]) -> Any:
    """How the matrices were initialized; PEFT compares some names without their case."""
    start = fields.get("init_lora_weights", True)
    lower = start.lower() if isinstance(start, str) else start
    return lower if lower in ("olora", "mica", "gaussian") else start


def _is_applied(key: str, value: Any) -> bool:
    is_known = key in HONORED or key in WITHOUT_EFFECT or key in ("peft_type", "init_lora_weights")
    return is_known or value in (None, False, [], {}) or value == _defaults().get(key)


def _defaults() -> dict[str, Any]:
    from peft import LoraConfig

    return {item.name: item.default for item in dataclasses.fields(LoraConfig)
            if item.default is not dataclasses.MISSING}  # fmt: skip


def explain_mismatch(
    saved: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    fields: Mapping[str, Any],
    path: Path,
) -> RequestError | None:
    """The error for saved matrices that are not those of the model; None where they are.

    Args:
        saved, expected: shapes by key.
        path: the adapter folder.
    """
    missing = [key for key in expected if key not in saved]
    unexpected = [key for key in saved if key not in expected]
    reshaped = [key for key in expected if key in saved and saved[key] != expected[key]]
    if not (missing or unexpected or reshaped):
        return None
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} keys are missing ({names_of(missing, 1)})")
    if unexpected:
        parts.append(f"{len(unexpected)} are not expected ({names_of(unexpected, 1)})")
    if reshaped:
        key = reshaped[0]
        parts.append(
            f"{len(reshaped)} have another shape ({key}: {saved[key]} instead of {expected[key]})"
        )
    reason, hint = _reason(missing, unexpected, reshaped, saved, expected)
    named = fields.get("base_model_name_or_path")
    base = f"; its {path.name}/adapter_config.json names the base {named}" if named else ""
    return RequestError(
        f"the adapter does not fit this model: {'; '.join(parts)}. {reason}{base}",
        where=path,
        hint=hint
        or (f"run it with: --model {quoted(named)}" if named else "name its base with --model"),
    )


_SAVE_AGAIN = "save it with PEFT: model.save_pretrained(FOLDER)"


def _reason(
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
    saved: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> tuple[str, str | None]:
    """The likely reason, and a hint where it is not the base."""
    if missing and unexpected:
        if foreign := [key for key in unexpected if "lora_" not in key or "lora_down" in key]:
            return f"{foreign[0]} is not a key of PEFT", _SAVE_AGAIN
        names = {match[1] for key in unexpected
                 if (match := re.search(r"\.lora_[A-Za-z_]+\.([^.]+)\.weight$", key))}  # fmt: skip
        if names and any(re.sub(rf"(\.lora_[A-Za-z_]+)\.({'|'.join(map(re.escape, names))})\.",
                                r"\1.", key) in expected for key in unexpected):  # fmt: skip
            return f"Its keys hold the adapter's name ({', '.join(sorted(names))})", _SAVE_AGAIN
        ours, theirs = missing[0], unexpected[0]
        tail = next((key for key in missing if _tail(key) == _tail(theirs)), None)
        if tail is not None:
            before, after = (key.removesuffix(_tail(key)) for key in (theirs, ours))
            return f"Its keys start with {before!r} instead of {after!r}", _SAVE_AGAIN
    if unexpected and not missing and all("lora_" not in key for key in unexpected):
        return "These are weights beside the LoRA matrices, which would be lost", _MERGE
    if reshaped and all(_differs_in_rank_alone(key, saved, expected) for key in reshaped):
        return "The rank of its matrices is not that of its adapter_config.json", (
            "copy both files of the adapter from the same run"
        )
    if reshaped:
        return "It was trained on a model of another width", None
    if missing and not unexpected:
        return "Its file is incomplete, or target_modules names more layers than it has", (
            "copy both files of the adapter from the same run"
        )
    if unexpected and max(map(_layer, unexpected)) > max(map(_layer, expected), default=-1):
        return "It was trained on a model of more layers", None
    return "Its adapter_config.json targets other layers than its file has", None


def _tail(key: str) -> str:
    """The key from `encoder.` or `decoder.` on."""
    match = re.search(r"(?:encoder|decoder)\.(?:layers|embed|conv).*", key)
    return match[0] if match else key


def _layer(key: str) -> int:
    match = re.search(r"\.layers\.(\d+)\.", key)
    return int(match[1]) if match else -1


def _differs_in_rank_alone(
    key: str, saved: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> bool:
    outer = 1 if ".lora_A." in key else 0
    ours, theirs = expected[key], saved[key]
    return len(ours) == len(theirs) == 2 and ours[outer] == theirs[outer]
