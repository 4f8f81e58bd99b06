"""The model card: filled from what was recorded; what was not measured is said to be so."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import yaml

from moonshine_tune.registry.catalog import ModelRecord, lookup_model

_UNSAFE = re.compile(r"[\r\n|`<>]+")


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card is filled from, in its public form (`package_records`).

    Attributes:
        arch: the runtime's name of the architecture, such as TINY.
        evaluations: by name; `of` says whether of the "base" or the "adapted" model.
        manifests: as `manifest_record` gives them.
        sample_clips: recordings that the package holds.
    """

    name: str
    arch: str
    run: Mapping[str, Any]
    export: Mapping[str, Any] | None
    benchmark: Mapping[str, Any] | None
    evaluations: Mapping[str, Mapping[str, Any]]
    manifests: Sequence[Mapping[str, Any]]
    sample_clips: int
    version: str


def model_card(facts: CardFacts) -> str:
    """The text of README.md."""
    template = resources.files("moonshine_tune.release").joinpath("model_card.md")
    base = facts.run.get("base", {})
    record = lookup_model(str(base.get("name", "")))
    sample = f", but for {facts.sample_clips} test clips in `sample/`" if facts.sample_clips else ""
    return Template(template.read_text(encoding="utf-8")).substitute(
        front_matter=_front_matter(facts, record),
        name=_cell(facts.name),
        base_name=_cell(base.get("name", "unknown")),
        family=_cell(base.get("family", "unknown family")),
        version=facts.version,
        arch=facts.arch,
        accuracy=_accuracy(facts),
        canary=_canary(facts),
        speed=_speed(facts.benchmark),
        parity=_parity(facts.export),
        data=_data(facts.manifests),
        sample_note=sample,
        settings=_settings(facts.run),
        versions=_versions(facts.run),
        licences=_licences(record, str(base.get("name", "unknown"))),
        limits=_limits(facts, record),
    )


def _cell(value: object) -> str:
    """A value that cannot break a line, a table or a code span of the card."""
    return _UNSAFE.sub(" ", str(value)).strip()


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _number(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _interval(value: object) -> str:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return "–"
    return f"{_number(value[0])}–{_number(value[1])}"


def _front_matter(facts: CardFacts, record: ModelRecord | None) -> str:
    front: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["moonshine", "lora", "speech-recognition"],
    }
    if record is not None:
        front["language"] = record.language
        front["license"] = "mit" if record.licence == "MIT" else "other"
        if record.hub_ids:
            front["base_model"] = record.hub_ids[0]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()


def _accuracy(facts: CardFacts) -> str:
    if not facts.evaluations:
        return ("Not measured on a test set. On the development set, which chose the adapter: "
                + _development(facts.run))  # fmt: skip
    rows = []
    shown = {_set_of(found) for found in facts.evaluations.values() if found["of"] == "adapted"}
    for name, found in facts.evaluations.items():
        of_base = found["of"] == "base"
        if of_base and _set_of(found) in shown:
            continue
        base = found if of_base else found.get("base") or {}
        rows.append([
            name,
            found.get("backend", "–"),
            _number(base.get("wer")),
            _interval(base.get("ci95")),
            "–" if of_base else _number(found.get("wer")),
            "–" if of_base else _interval(found.get("ci95")),
            found.get("utterances", "–"),
            found.get("reference_words", "–"),
            found.get("normalizer", "–"),
            str(found.get("manifest_sha256", "–"))[:12],
        ])  # fmt: skip
    headers = ["evaluation", "back end", "base WER %", "95 %", "WER %", "95 %", "clips", "words",
               "normalizer", "manifest"]  # fmt: skip
    return (
        _table(headers, rows)
        + "\n\nDevelopment set, which chose the adapter: "
        + _development(facts.run)
    )


def _set_of(found: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two evaluations must share so that one is the other's base."""
    return tuple(found.get(key) for key in ("manifest_sha256", "backend", "normalizer"))


def _development(run: Mapping[str, Any]) -> str:
    result = run.get("result") or {}
    before, after = result.get("baseline") or {}, result.get("best") or {}
    if "dev_wer" not in after:
        return "not recorded."
    return f"WER {_number(before.get('dev_wer'))} % → {_number(after['dev_wer'])} %."


def _canary(facts: CardFacts) -> str:
    result = facts.run.get("result") or {}
    before, after = result.get("baseline") or {}, result.get("best") or {}
    if after.get("canary_wer") is None:
        return ("Not measured: this run had no canary. What the adapter costs on general speech "
                "is not known.")  # fmt: skip
    bound = (facts.run.get("settings", {}).get("select") or {}).get("canary_bound")
    held = "kept" if result.get("canary_held") else "NOT kept"
    return (
        f"WER {_number(before.get('canary_wer'))} % before, {_number(after['canary_wer'])} % "
        f"after; the bound of {_number(bound, 1)} points was {held}."
    )


def _speed(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "Not measured: run `moonshine-tune benchmark --runtime-dir runtime --manifest …`."
    machine, memory = found.get("machine", {}), found.get("memory_mb", {})

    def times(spread: object) -> str:
        if not isinstance(spread, Mapping):
            return "–"
        return " / ".join(_number(spread.get(key), 0) for key in ("median", "p95", "max"))

    rows: list[list[object]] = [
        ["load, ms", times(found.get("load_ms"))],
        ["latency of a clip, ms", times(found.get("latency_ms"))],
    ]
    for band in found.get("by_length", []):
        upper = "" if band.get("to_s") is None else f"{band['to_s']:g}"
        label = f"clips of {band['from_s']:g}–{upper} s, ms"
        rows.append([label, times(band.get("latency_ms"))])
    if found.get("stream"):
        rows.append(["end of speech to final text, ms", times(found["stream"].get("final_ms"))])
    rows += [
        ["real-time factor", _number(found.get("rtf"), 4)],
        ["peak memory of a fresh process, MB", _number(memory.get("peak"), 0)],
        ["files, MB", _number(found.get("total_bytes", 0) / 1e6, 1)],
    ]
    ratio = (found.get("ratios") or {}).get("latency")
    if ratio:
        label = "latency over the folder compared with"
        rows.append([label, f"{_number(ratio['ratio'], 3)} ({_interval(ratio.get('ci95'))})"])
    heading = (
        f"On {_cell(machine.get('chip', 'an unnamed chip'))} ({machine.get('system', '–')}, "
        f"{machine.get('arch', '–')}), {found.get('clips', '–')} clips; times are median / 95 % / "
        "maximum."
    )
    return heading + "\n\n" + _table(["figure", "value"], rows)


def _parity(found: Mapping[str, Any] | None) -> str:
    parity = (found or {}).get("parity")
    if not parity:
        return "Not measured: the runtime folder has no export.json."
    passed = "passed" if parity.get("passed") else "**FAILED**"
    return (
        f"The runtime against the trained model on {parity.get('clips', '–')} clips: "
        f"{_number(parity.get('word_difference'))} % of {parity.get('words', '–')} words differ "
        f"(bound {_number(parity.get('bound'))} %): {passed}."
    )


def _data(manifests: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for found in manifests:
        seconds = found.get("seconds")
        rows.append([
            found["role"],
            found.get("utterances", "–"),
            "–" if seconds is None else f"{seconds / 60:.1f}",
            found.get("speakers") or "–",
            found.get("sha256") or "–",
        ])  # fmt: skip
    if not rows:
        return "Not recorded."
    return _table(["set", "utterances", "minutes", "speakers", "manifest sha256"], rows)


def _settings(run: Mapping[str, Any]) -> str:
    rows = []
    for section in ("adapter", "train", "retain"):
        for key, value in (run.get("settings", {}).get(section) or {}).items():
            rows.append([f"{section}.{key}", value])
    return _table(["setting", "value"], rows) if rows else "Not recorded."


def _versions(run: Mapping[str, Any]) -> str:
    versions = run.get("versions") or {}
    named = [f"{name} {versions[name]}" for name in
             ("python", "torch", "transformers", "peft", "moonshine-voice")
             if versions.get(name)]  # fmt: skip
    return ", ".join(_cell(item) for item in named) or "versions that were not recorded"


def _licences(record: ModelRecord | None, name: str) -> str:
    if record is None:
        base = f"unknown here: read that of the model {_cell(name)}"
    else:
        base = record.licence
    return (
        f"Base model: {base}. The adapted weights are derived from it and stay under its licence. "
        "moonshine-tune and the scripts in `reproduce/`: MIT. The licence of the training data is "
        "for its owner to state; it is not recorded here."
    )


def _limits(facts: CardFacts, record: ModelRecord | None) -> str:
    language = record.language_name if record else "the base model's language"
    longest = (facts.run.get("settings", {}).get("data") or {}).get("max_clip_s")
    lines = [
        f"For {language} speech like that of the training set. Other accents, microphones, noise "
        "and topics were not measured unless a table above says so."
    ]
    if longest:
        lines.append(f"Trained on clips of at most {_number(longest, 0)} s.")
    words = [found.get("reference_words") or 0 for found in facts.evaluations.values()]
    if words and min(words) < 1000:
        lines.append(
            f"The smallest test set has {min(words)} words: read the intervals, not the figures."
        )
    result = facts.run.get("result") or {}
    if result.get("canary_held") is False:
        lines.append("General speech got worse by more than the bound: see the canary above.")
    if facts.run.get("status") not in ("finished", "early stop"):
        lines.append(f"The training run is recorded as: {_cell(facts.run.get('status', '–'))}.")
    parity = (facts.export or {}).get("parity") or {}
    if parity.get("passed") is False:
        lines.append("The runtime files failed the parity gate: they say other words than the "
                     "trained model.")  # fmt: skip
    lines.append("Speech recognition errs: do not act on a transcript alone where safety, money or "
                 "law depend on it.")  # fmt: skip
    return "\n".join(f"- {line}" for line in lines)
