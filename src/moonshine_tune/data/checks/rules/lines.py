"""Lines of a manifest that are not a usable utterance, and paths that cannot be moved."""

from collections.abc import Iterator

from moonshine_tune.data.checks.base import manifest_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Sighting


@manifest_check(
    severity="error",
    rank=10,
    text="[line is not a valid utterance|lines are not valid utterances]",
    hint="fix or remove these lines",
)
def bad_line(manifest: CheckedManifest) -> Iterator[Sighting]:
    return manifest.invalid_lines("bad_line")


@manifest_check(
    severity="error",
    rank=20,
    text="[line has|lines have] the id of an earlier line: scores and hypotheses would be mixed up",
    hint="give every line its own id",
)
def duplicate_id(manifest: CheckedManifest) -> Iterator[Sighting]:
    return manifest.invalid_lines("duplicate_id")


@manifest_check(
    severity="error",
    rank=30,
    text="[recording does|recordings do] not exist",
    hint="fix the path, or remove the line",
)
def missing_recording(manifest: CheckedManifest) -> Iterator[Sighting]:
    return manifest.invalid_lines("missing_recording")


@manifest_check(
    severity="note",
    rank=50,
    text="[recording is|recordings are] outside the manifest's folder: the manifest cannot be "
    "moved together with its audio",
    hint="do nothing, or move the manifest above its audio",
)
def outside_folder(manifest: CheckedManifest) -> Iterator[Sighting]:
    folder = manifest.scan.path.parent.resolve()
    for utterance in manifest.utterances:
        if not utterance.audio.is_relative_to(folder):
            yield utterance.id, str(utterance.audio)
