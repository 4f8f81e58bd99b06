"""Check that an adapter read back from disk gives the transcripts that the run wrote."""

from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.config.settings import DeviceSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.inference.encoder_cache import EncoderCache
from moonshine_tune.inference.scored_set import transcribe_source
from moonshine_tune.models.lora import adapter_parameters
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.summary import read_scored


@dataclass(frozen=True)
class ReloadCheck:
    """Transcripts of the dev set: their number, and how many are the same as before."""

    utterances: int
    same: int

    @property
    def exact(self) -> bool:
        """Whether every transcript is the same."""
        return 0 < self.utterances == self.same

    @property
    def figure(self) -> str:
        """For example `30 of 30 transcripts the same`."""
        return f"{self.same} of {self.utterances} transcripts the same"


def check_reload(
    run: Path, reloaded: OpenedModel, manifest: Path, progress: Progress
) -> ReloadCheck:
    """Compare with the transcripts that the run wrote when it saved its best adapter.

    Args:
        reloaded: the model with the adapter, read back from disk.
        manifest: of the dev set, or of the training set where dev was held out of it.

    Raises:
        RequestError: the run wrote no transcripts, or the manifest has none of its utterances.
    """
    path = RunFolder(run).dev_hypotheses_path
    if not path.is_file():
        raise RequestError("the run has no transcripts of its dev set", where=path)
    written = {item.id: item.hypothesis for item in read_scored(path)}
    utterances = tuple(u for u in read_manifest(manifest).utterances if u.id in written)
    if not utterances:
        raise RequestError("none of the run's dev utterances is in this manifest", where=manifest)
    corpus = build_dataset(utterances, reloaded.model, name="dev", max_clip_s=1e9, needs_text=False)
    # Encoder states are kept as the run kept them: other batches or another rounding could change
    # a word whose alternatives are nearly equal.
    record = RunFolder.open(run).read_record()
    device = DeviceSettings.model_validate(record.settings.get("device", {}))
    names = [name for name, _ in adapter_parameters(reloaded.model.module)]
    trains_encoder = any(".encoder." in name for name in names)
    cache = EncoderCache(device, reloaded, progress, trains_encoder=trains_encoder)
    source = cache.source(corpus, range(len(corpus)), "dev")
    texts = transcribe_source(
        reloaded.model, source, reloaded.limits, progress, "transcribing dev again"
    )
    pairs = zip(corpus.utterances, texts, strict=True)
    same = sum(written[utterance.id] == text for utterance, text in pairs)
    return ReloadCheck(len(written), same)
