"""Lines of a manifest that are not a usable utterance, and paths that cannot be moved."""

from collections.abc import Iterable, Iterator

from moonshine_tune.data.checks.base import manifest_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Occurrence


@manifest_check("error", rank=10)
def bad_line(manifest: CheckedManifest) -> Iterable[Occurrence]:
    """[line is not a valid utterance|lines are not valid utterances].

    Fix or remove [this line|these lines].
    """
    return manifest.unusable.get("bad_line", [])


@manifest_check("error", rank=20)
def duplicate_id(manifest: CheckedManifest) -> Iterable[Occurrence]:
    """[line has|lines have] the id of an earlier line: scores and hypotheses would be mixed up.

    Give [this line|these lines] another id.
    """
    return manifest.unusable.get("duplicate_id", [])


@manifest_check("error", rank=30)
def missing_recording(manifest: CheckedManifest) -> Iterable[Occurrence]:
    """[recording does|recordings do] not exist.

    Fix [the path, or remove the line|the paths, or remove the lines].
    """
    return manifest.unusable.get("missing_recording", [])


@manifest_check("note", rank=50)
def outside_folder(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[recording is|recordings are] outside the manifest's folder: the manifest cannot be moved
    together with its audio.

    Do nothing, or move the manifest above its audio.
    """
    folder = manifest.scan.path.parent.resolve()
    for utterance in manifest.utterances:
        if not utterance.audio.is_relative_to(folder):
            yield utterance.id, str(utterance.audio)
