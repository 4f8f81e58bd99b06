"""Clips with far more or less text per second than the rest of the corpus, or than people speak."""

import math
import statistics
from collections.abc import Iterator

from moonshine_tune.data.checks.base import Drop, manifest_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Occurrence

# A median of fewer clips says little.
_FEWEST = 20
# An outlier is this many robust standard deviations of the logarithm away, by this factor at least,
# and by this many characters: one word more or less is no sign of an exchanged text, and in a
# corpus of single words it changes rates sixfold. With three texts exchanged in clean corpora of
# 50 to 948 clips, this names every exchanged text of read sentences that is 2.5 times too long or
# short, 60 % of those of spelled letters and numbers, and no other clip.
_DEVIATIONS, _FACTOR, _CHARACTERS = 3.0, 1.7, 10
# Characters per second of a clip, and of most clips of a corpus. Read sentences have 12 to 13, the
# fastest of LJ Speech 17; with twice their sample rate in the headers they have 24 to 26.
_TOO_FAST, _CORPUS_TOO_FAST = 30.0, 20.0
_FEW, _SHORT_TEXT = 5, 20


@manifest_check("warning", rank=70, fix=Drop(on_request=True))
def speech_rate(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[clip has|clips have] far more or less text per second than the others: text and audio may
    not belong together, or words are missing.

    Listen to [it|them, in this order].
    """
    # Against the corpus's median.
    counts = manifest.spoken
    if len(counts) < _FEWEST:
        return
    logs = {key: math.log(number / seconds) for key, (number, seconds) in counts.items()}
    median = statistics.median(logs.values())
    deviations = {key: abs(value - median) for key, value in logs.items()}
    spread = 1.4826 * statistics.median(deviations.values())
    threshold = max(_DEVIATIONS * spread, math.log(_FACTOR))
    usual = math.exp(median)
    for identifier in sorted(logs, key=lambda key: -deviations[key]):
        number, seconds = counts[identifier]
        is_outlier = deviations[identifier] > threshold
        if is_outlier and abs(number - usual * seconds) >= _CHARACTERS:
            yield identifier, f"{number / seconds:.1f} characters per second, median {usual:.1f}"


@manifest_check("warning", rank=75)
def too_fast(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[clip has|clips have] more text per second than people speak: the header may state twice the
    true sample rate, the recording may be cut off, or the text that of a longer one.

    Play [it|one of them].
    """
    counts = manifest.spoken
    rates = {key: number / seconds for key, (number, seconds) in counts.items()}
    is_corpus = len(rates) >= _FEW and statistics.median(rates.values()) > _CORPUS_TOO_FAST
    bound = _CORPUS_TOO_FAST if is_corpus else _TOO_FAST
    for identifier in sorted(rates, key=lambda key: -rates[key]):
        if rates[identifier] > bound and counts[identifier][0] >= _SHORT_TEXT:
            yield identifier, f"{rates[identifier]:.1f} characters per second"
