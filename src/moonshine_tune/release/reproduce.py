"""What makes a package again: the recorded commands, settings, versions and fingerprints."""

import re
import shlex
from collections.abc import Iterator, Mapping

import yaml

from moonshine_tune.release.inputs import MANIFEST_ROLES, PackageInputs
from moonshine_tune.release.model_card import cell, render

_LOCAL_VERSION = re.compile(r"\+.*$")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VARIABLE = re.compile(r"\$[A-Z_]+[0-9]*")
_OTHER_PATHS = {
    "BASE_RUNTIME": "the base's runtime folder",
    "CALIBRATE": "the manifest that steered the rounding",
}


def reproduce_files(inputs: PackageInputs) -> dict[str, str]:
    """The texts of the files in `reproduce/` by name."""
    settings, versions = inputs.run["settings"], inputs.run.get("versions") or {}
    return {
        "README.md": _readme(inputs),
        "settings.yaml": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        # The local part of a version, such as +cpu, names a build that no package index has.
        "requirements.txt": "".join(
            f"{name}=={_LOCAL_VERSION.sub('', str(version))}\n"
            for name, version in versions.items()
            if version and name != "python"
        ),
    }


def _readme(inputs: PackageInputs) -> str:
    run = inputs.run
    tests = _test_manifests(inputs)
    fingerprints = run.get("data") or {}
    roles = {role.upper(): fingerprints[role] for role in MANIFEST_ROLES if role in fingerprints}
    manifests = roles | {variable: digest for digest, variable in tests.items()}
    commands = {
        "train": _command(
            "train",
            config="settings.yaml",
            **{variable.lower(): f"${variable}" for variable in roles},
            # What "auto" chose then gives the same bytes now.
            set=f"device.name={(run.get('device') or {}).get('name') or 'auto'}",
            out="run",
        ),
        "export": _export_command(inputs),
        "scores": "\n".join(_score_commands(inputs, tests)),
    }
    others = {name: use for name, use in _OTHER_PATHS.items() if f"${name}" in str(commands)}
    return render(
        "reproduce.md",
        python=(run.get("versions") or {}).get("python") or "as recorded",
        paths=dict.fromkeys(manifests, "manifest") | others,
        manifests={n: d for n, d in manifests.items() if _SHA256.fullmatch(str(d))},
        adapter_sha256=inputs.adapter_sha256,
        runtime_sha256=inputs.runtime_sha256,
        **commands,
    )


def _test_manifests(inputs: PackageInputs) -> dict[str, str]:
    """A variable for each manifest that was scored or measured, by its fingerprint."""
    records = (*inputs.evaluations.values(), inputs.benchmark or {})
    digests = dict.fromkeys(str(record.get("manifest_sha256")) for record in records)
    recorded = filter(_SHA256.fullmatch, digests)
    return {digest: f"TEST_{number}" for number, digest in enumerate(recorded, start=1)}


def _command(name: str, **options: object) -> str:
    """A command line; options that are None are left out, `$NAME` stands for a path."""
    words = ["moonshine-tune", name]
    for option, value in options.items():
        if value is not None:
            text = cell(value)
            words.append(f"--{option.replace('_', '-')}")
            words.append(f'"{text}"' if _VARIABLE.fullmatch(text) else shlex.quote(text))
    return " ".join(words)


def _export_command(inputs: PackageInputs) -> str:
    record = inputs.export or {}
    is_traced = record.get("method") == "trace"
    return _command(
        "export",
        run="run",
        model=inputs.run["settings"]["model"],
        method="trace" if is_traced else None,
        quantize=record.get("quantize") if is_traced else None,
        calibrate={"none": "none", "manifest": "$CALIBRATE"}.get(str(record.get("calibrate"))),
        out="runtime",
    )


def _score_commands(inputs: PackageInputs, tests: Mapping[str, str]) -> Iterator[str]:
    for name, record in inputs.evaluations.items():
        test = tests.get(str(record.get("manifest_sha256")))
        if test is None:
            yield f"# {cell(name)}: its manifest is not recorded"
            continue
        is_base, in_runtime = record["of"] == "base", record.get("backend") == "runtime"
        runtime = "$BASE_RUNTIME" if is_base else "runtime"
        yield _command(
            "evaluate",
            manifest=f"${test}",
            runtime_dir=runtime if in_runtime else None,
            model=None if in_runtime else inputs.run["settings"]["model"],
            adapter=None if in_runtime or is_base else "run",
            normalizer=record.get("normalizer"),
            out=f"evaluation/{name}",
        )
    benchmark = inputs.benchmark or {}
    if test := tests.get(str(benchmark.get("manifest_sha256"))):
        yield _command(
            "benchmark",
            runtime_dir="runtime",
            manifest=f"${test}",
            compare="$BASE_RUNTIME" if benchmark.get("other") else None,
            rounds=benchmark.get("rounds", 3),
            normalizer=(benchmark.get("wer") or {}).get("normalizer"),
            out="benchmark",
        )
