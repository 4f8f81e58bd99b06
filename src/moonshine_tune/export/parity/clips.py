"""The clips of the parity gate: those of a manifest first, then general speech if they are few."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from moonshine_tune.audio.io import audio_info
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.export.calibration import clips_of_run
from moonshine_tune.registry.wheel import cached_wheel_assets
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import locate

# The first look; each further one is at twice as many clips, up to the most. More would take
# minutes, and a difference that is not decided then lies close to the margin.
_FIRST, _MOST = 40, 320
# Of general speech, which was not asked for: each clip takes four passes.
_MOST_GENERAL = 80
_PIECE_S = 10.0


@dataclass(frozen=True)
class ParityClips:
    """What the gate transcribes.

    Attributes:
        name: of the set, such as `dev`, or of the manifest.
        first: the clips of the first look, on which files and graphs are compared too.
        rest: more of the same set.
        run: whose general speech is added.
    """

    name: str
    first: tuple[Utterance, ...]
    rest: tuple[Utterance, ...]
    run: Path | None

    def further(self, language: str, least: int) -> Iterator[tuple[str, list[Utterance]]]:
        """More clips in blocks, each as many as all before it: name of the set, and its clips.

        The rest of the set comes first, then the run's canary and replay. Where there are none, the
        recordings of the package that carries tiny, if they are on this disk.

        Args:
            least: nothing is decided on fewer clips in all: where there are not as many, none is
                transcribed.
        """
        known = {_span(item) for item in self.first}
        sources: list[tuple[str, list[Utterance]]] = []
        for name, clips in self._sources(language):
            new = [item for item in clips if _span(item) not in known]
            known.update(map(_span, new))
            sources.append((name, new))
        count = len(self.first)
        if count + sum(len(new) for _, new in sources) < least:
            return
        general = 0
        for name, new in sources:
            while block := evenly_chosen(new, min(count, _MOST - count, self._left(name, general))):
                count += len(block)
                general += len(block) if name != self.name else 0
                yield name, block
                chosen = set(map(_span, block))
                new = [item for item in new if _span(item) not in chosen]

    def _left(self, name: str, general: int) -> int:
        """How many more clips of a set are transcribed, after so many of general speech."""
        return _MOST if name == self.name else _MOST_GENERAL - general

    def _sources(self, language: str) -> Iterator[tuple[str, Sequence[Utterance]]]:
        # The files were calibrated on these clips, so they are closer to torch there.
        calibrated = {_span(item) for item in clips_of_run(self.run)}
        yield self.name, [item for item in self.rest if _span(item) not in calibrated]
        there = False
        for name in ("canary", "replay"):
            clips = clips_of_run(self.run, (f"data.{name}",), _MOST + len(calibrated))
            clips = [item for item in clips if _span(item) not in calibrated]
            there = there or bool(clips)
            yield name, clips
        if not there and language == "en":
            yield "recordings of the package", _recordings_of_package()


def _span(utterance: Utterance) -> tuple[Path, float | None, float | None]:
    return utterance.audio, utterance.start, utterance.end


def _recordings_of_package() -> list[Utterance]:
    """Pieces of its three recordings, without texts; none where they are not on this disk."""
    assets = cached_wheel_assets(cache_root())
    pieces: list[Utterance] = []
    for path in (assets.two_cities, assets.beckett, assets.endgame) if assets else ():
        seconds = audio_info(path).seconds
        count = ceil(seconds / _PIECE_S)
        for number in range(count):
            start, end = seconds * number / count, seconds * (number + 1) / count
            name = f"package/{path.stem}-{number}"
            pieces.append(Utterance(name, path, start=round(start, 3), end=round(end, 3)))
    return pieces


def parity_clips(run: Path | None, manifest: Path | None) -> ParityClips:
    """Clips for the gate: from the manifest, or else from the run's dev or training set.

    Raises:
        RequestError: no manifest is known, or it cannot be read.
    """
    path, name = manifest, "" if manifest is None else manifest.name
    if path is None and run is not None and (run / "run.json").is_file():
        record = RunFolder.open(run).read_record()
        key = "data.dev" if record.settings.get("data", {}).get("dev") else "data.train"
        name = key.removeprefix("data.")
        files = locate(run, record, (key,))
        if files.missing:
            raise RequestError(
                f"{files.describe_missing(key)}: the parity gate needs its clips",
                where=run,
                hint="name clips with --manifest FILE, or record once where the files are: "
                f"{files.resume_command}",
            )
        path = files.present.get(key)
    if path is None:
        raise RequestError(
            "the parity gate needs real clips", hint="name a manifest with --manifest test.jsonl"
        )
    utterances = read_manifest(path, require_text=False).utterances
    first = tuple(evenly_chosen(utterances, _FIRST))
    chosen = {item.id for item in first}
    rest = tuple(item for item in utterances if item.id not in chosen)
    return ParityClips(name, first, rest, run)
