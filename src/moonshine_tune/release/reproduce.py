"""What makes a package again: the recorded commands, settings, versions and fingerprints."""

import re

import yaml

from moonshine_tune.release.inputs import MANIFEST_ROLES, PackageInputs
from moonshine_tune.release.model_card import render
from moonshine_tune.runs.records import ExportRecord

_SHA256 = re.compile(r"[0-9a-f]{64}")


def reproduce_files(inputs: PackageInputs) -> dict[str, str]:
    """The texts of the files in `reproduce/` by name."""
    run, benchmark = inputs.run, inputs.benchmark
    evaluations = inputs.evaluations | inputs.base_evaluations
    roles = [role for role in MANIFEST_ROLES if role in run.data]
    digests = dict.fromkeys(record.manifest_sha256 for record in evaluations.values())
    if benchmark is not None:
        digests[benchmark.manifest_sha256] = None
    recorded = [digest for digest in digests if _SHA256.fullmatch(digest)]
    tests = {digest: f"TEST_{number}" for number, digest in enumerate(recorded, start=1)}
    readme = render(
        "reproduce.md",
        inputs=inputs,
        run=run,
        model=run.settings["model"],
        roles=roles,
        # Shell variables: only a digest of the right form may stand beside one.
        manifests={role.upper(): _digest(run.data[role]) for role in roles}
        | {variable: digest for digest, variable in tests.items()},
        tests=tests,
        export=inputs.export or ExportRecord(),
        evaluations=evaluations,
        benchmark=benchmark,
    )
    settings = yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True)
    return {"README.md": readme, "settings.yaml": settings}


def _digest(text: str | None) -> str | None:
    return text if text and _SHA256.fullmatch(text) else None
