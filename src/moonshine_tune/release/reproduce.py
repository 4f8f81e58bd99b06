"""Scripts that make a package again from its manifests: train, evaluate, export, benchmark."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from moonshine_tune.release.records import MANIFEST_ROLES

FOLDER = "reproduce"
_LOCAL_VERSION = re.compile(r"\+.*$")

_COMMON = """\
#!/bin/sh
# What the scripts share. WORK is where results go; MOONSHINE_TUNE is the command.
set -eu
PACKAGE=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
WORK=${WORK:-$PACKAGE-reproduced}
MOONSHINE_TUNE=${MOONSHINE_TUNE:-moonshine-tune}
mkdir -p "$WORK"

sum_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum < "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 < "$1" | cut -d ' ' -f 1
    fi
}

# need NAME PATH SHA256: the manifest must be named, be there and be the recorded one.
need() {
    if [ -z "$2" ]; then
        echo "error: say where the manifest $1 lies, in $WORK/manifests.sh" >&2
        echo "hint: or run: $1=path/to/manifest.jsonl sh $0" >&2
        exit 2
    fi
    if [ ! -f "$2" ]; then
        echo "error: no such manifest: $2 ($1)" >&2
        exit 2
    fi
    if [ -n "$3" ] && [ "$(sum_of "$2")" != "$3" ]; then
        echo "error: $2 is not the manifest $1 of this package (its sha256 is not $3)" >&2
        exit 2
    fi
}

# same WHAT FILE SHA256: say whether what was made is what the package holds.
same() {
    if [ "$(sum_of "$2")" = "$3" ]; then
        echo "the same: $1"
    else
        echo "not the same: $1 (another processor or other library versions round otherwise)"
        exit 1
    fi
}

# A copy is what is edited: a package whose files are edited no longer passes `verify`.
[ -f "$WORK/manifests.sh" ] || cp "$PACKAGE/reproduce/manifests.sh" "$WORK/manifests.sh"
. "$WORK/manifests.sh"
"""

_README = """\
# Make this package again

1. Install the recorded versions: `pip install -r requirements.txt` (Python {python}).
2. Run `sh train.sh`, `sh export.sh`, `sh evaluate.sh`, `sh benchmark.sh`, in this order.

Results go to `$WORK`, by default a folder beside the package. The scripts ask where the manifests
lie: say so in `$WORK/manifests.sh`, or in the environment (`manifests.sh` has the names). Each
manifest's fingerprint is checked first. On the same processor with the same versions the adapter
comes out the same, byte for byte. `DEVICE=auto sh train.sh` trains on another kind of device.
"""


@dataclass(frozen=True)
class ReproduceFacts:
    """What the scripts are written from, in its public form.

    Attributes:
        run: the run's public record.
        adapter_sha256: hash of the adapter's weights.
        runtime_sha256: hash of each runtime file.
        evaluations: by name.
        benchmark: where one was made.
        export: how the runtime files were made, where it is recorded.
    """

    run: Mapping[str, Any]
    adapter_sha256: str
    runtime_sha256: Mapping[str, str]
    evaluations: Mapping[str, Mapping[str, Any]]
    benchmark: Mapping[str, Any] | None
    export: Mapping[str, Any] | None = None


def reproduce_files(facts: ReproduceFacts) -> dict[str, str]:
    """The texts of the folder's files by name."""
    tests = _test_manifests(facts)
    python = str((facts.run.get("versions") or {}).get("python") or "as recorded")
    return {
        "README.md": _README.format(python=python),
        "requirements.txt": _requirements(facts.run),
        "settings.yaml": yaml.safe_dump(
            facts.run.get("settings", {}), sort_keys=False, allow_unicode=True
        ),
        "common.sh": _COMMON,
        "manifests.sh": _manifests(facts, tests),
        "train.sh": _train(facts),
        "evaluate.sh": _evaluate(facts, tests),
        "export.sh": _export(facts),
        "benchmark.sh": _benchmark(facts, tests),
    }


def _requirements(run: Mapping[str, Any]) -> str:
    """Pinned versions; local parts such as +cpu name builds that no index has."""
    lines = [
        f"{name}=={_LOCAL_VERSION.sub('', str(version))}"
        for name, version in (run.get("versions") or {}).items()
        if version and name != "python"
    ]
    return "".join(f"{line}\n" for line in lines)


def _test_manifests(facts: ReproduceFacts) -> dict[str, str]:
    """A variable for each manifest that was scored or measured, by its fingerprint."""
    found = [record.get("manifest_sha256") for record in facts.evaluations.values()]
    found.append((facts.benchmark or {}).get("manifest_sha256"))
    digests = dict.fromkeys(str(digest) for digest in found if digest)
    return {digest: f"TEST_{number}" for number, digest in enumerate(digests, start=1)}


def _roles(facts: ReproduceFacts) -> list[str]:
    """The run's manifests that had a file of their own."""
    fingerprints = facts.run.get("data") or {}
    return [role for role in MANIFEST_ROLES if role in fingerprints]


def _manifests(facts: ReproduceFacts, tests: Mapping[str, str]) -> str:
    lines = ["# Where the manifests lie on this machine, e.g. TRAIN=${TRAIN:-/data/train.jsonl}"]
    for role in _roles(facts):
        lines += [
            "",
            f"# sha256 {facts.run['data'][role]}",
            f"{role.upper()}=${{{role.upper()}:-}}",
        ]
    for digest, variable in tests.items():
        uses = [name for name, record in facts.evaluations.items()
                if record.get("manifest_sha256") == digest]  # fmt: skip
        if (facts.benchmark or {}).get("manifest_sha256") == digest:
            uses.append("the benchmark")
        lines += ["", f"# for {_comment(', '.join(uses))}; sha256 {digest}",
                  f"{variable}=${{{variable}:-}}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return re.sub(r"[^\w ,.()+-]+", "-", text)


def _script(title: str, lines: Sequence[str]) -> str:
    head = ["#!/bin/sh", f"# {title}", '. "$(dirname -- "$0")/common.sh"']
    return "\n".join([*head, *lines]) + "\n"


def _train(facts: ReproduceFacts) -> str:
    roles = _roles(facts)
    # What "auto" chose then is what gives the same bytes now.
    device = shlex.quote(str((facts.run.get("device") or {}).get("name") or "auto"))
    lines = [f"DEVICE=${{DEVICE:-{device}}}"]
    lines += [_need(role.upper(), str(facts.run["data"][role])) for role in roles]
    flags = " ".join(f'--{role} "${role.upper()}"' for role in roles)
    lines.append(
        '"$MOONSHINE_TUNE" train --config "$PACKAGE/reproduce/settings.yaml" '
        f'{flags} ${{DEVICE:+--set "device.name=$DEVICE"}} --out "$WORK/run"'
    )
    lines.append(
        f'same "the adapter" "$WORK/run/adapter/adapter_model.safetensors" {facts.adapter_sha256}'
    )
    return _script("Train the adapter again.", lines)


def _need(variable: str, digest: str) -> str:
    return f'need {variable} "${variable}" {shlex.quote(digest)}'


def _model(facts: ReproduceFacts) -> str:
    return shlex.quote(str(facts.run.get("settings", {}).get("model", "tiny")))


def _evaluate(facts: ReproduceFacts, tests: Mapping[str, str]) -> str:
    lines: list[str] = []
    for name, record in facts.evaluations.items():
        digest = str(record.get("manifest_sha256") or "")
        variable = tests.get(digest)
        if variable is None:
            lines.append(f"# {_comment(name)}: its manifest is not recorded")
            continue
        of_base = record.get("of") == "base"
        words = [f'"$MOONSHINE_TUNE" evaluate --manifest "${variable}"']
        if record.get("backend") != "runtime":
            words += [f"--model {_model(facts)}"]
            words += [] if of_base else ['--adapter "$WORK/run"']
        elif of_base:
            words.append('--runtime-dir "${BASE_RUNTIME:?the runtime folder of the base}"')
        else:
            words.append('--runtime-dir "$WORK/runtime"')
        if record.get("normalizer"):
            words.append(f"--normalizer {shlex.quote(str(record['normalizer']))}")
        words.append(f'--out "$WORK/evaluation/"{shlex.quote(name)}')
        lines += [_need(variable, digest), " ".join(words)]
    if not lines:
        lines = ['echo "this package holds no evaluation"']
    return _script("Score again what the package's tables show.", lines)


def _export(facts: ReproduceFacts) -> str:
    lines = [
        "# Add --base-runtime DIR where the base's runtime files came from elsewhere.",
        f'"$MOONSHINE_TUNE" export --run "$WORK/run" --model {_model(facts)} {_method(facts)}'
        '--out "$WORK/runtime" "$@"',
    ]
    for name, digest in facts.runtime_sha256.items():
        quoted = shlex.quote(name)
        lines.append(f'same runtime/{quoted} "$WORK/runtime/"{quoted} {digest}')
    return _script("Write the runtime files again.", lines)


def _method(facts: ReproduceFacts) -> str:
    """The flags that the recorded export was made with, each with a space behind it."""
    record = facts.export or {}
    words = []
    if record.get("method") == "trace":
        words += ["--method trace", f"--quantize {shlex.quote(str(record.get('quantize')))}"]
    if record.get("calibrate") == "none":
        words.append("--calibrate none")
    if record.get("calibrate") == "manifest":
        words.append('--calibrate "${CALIBRATE:?the manifest that steered the rounding}"')
    return "".join(f"{word} " for word in words)


def _benchmark(facts: ReproduceFacts, tests: Mapping[str, str]) -> str:
    record = facts.benchmark
    digest = str((record or {}).get("manifest_sha256") or "")
    if record is None or digest not in tests:
        return _script("Measure again.", ['echo "this package holds no benchmark"'])
    variable = tests[digest]
    words = ['"$MOONSHINE_TUNE" benchmark --runtime-dir "$WORK/runtime"',
             f'--manifest "${variable}" --rounds {int(record.get("rounds", 3))}']  # fmt: skip
    normalizer = (record.get("wer") or {}).get("normalizer")
    if normalizer:
        words.append(f"--normalizer {shlex.quote(str(normalizer))}")
    words.append('${BASE_RUNTIME:+--compare "$BASE_RUNTIME"} --out "$WORK/benchmark"')
    return _script(
        "Measure again; BASE_RUNTIME=DIR compares with the base.",
        [_need(variable, digest), " ".join(words)],
    )
