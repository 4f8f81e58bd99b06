"""How many recordings, which ones, and what aliases gain without any.

    python -m benchmarks.how_many aliases --out D
    python -m benchmarks.how_many curve --out D [--corpus an4 accent] [--draws 5]
    python -m benchmarks.how_many simulated --out D
    python -m benchmarks.how_many next --out D [--corpus accent] [--count 60] [--seeds 5]

`aliases` looks for aliases of the rare words of LibriSpeech test-other with synthetic voices alone,
and counts recall and false alarms on real speech: these words in their readings, other speech of
adults and children with an accent, and LJ Speech. `curve` predicts the WER of more recordings from
50, and trains on as many: 80 % of the intervals should hold it; `simulated` does the same with
made-up errors, in a minute. `next` trains on the sentences that `data next` chooses and on as many
random ones. Trainings and transcripts are kept in D and not made again. Prints one line of JSON at
the end; exit code 1 if a goal is missed.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acceptance import SHARED
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.aliases.apply_aliases import apply_aliases
from moonshine_tune.corpus.keyterms import score_key_terms
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.splits import split_utterances
from moonshine_tune.curve.fit import Array, LearningCurve, Training
from moonshine_tune.curve.run import CurveRequest, learning_curve
from moonshine_tune.curve.subsets import subset
from moonshine_tune.data.next_sentences.run import NextRequest, next_sentences
from moonshine_tune.metrics.wer import score_utterances, summarize
from moonshine_tune.registry.model_preset import with_model_preset
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.summary import ENDED

_RARE = "librispeech_other/manifest"
_ALIAS_SETS = (_RARE, "accent/test", "accent/dev", "children/test", "children/dev",
               "ljspeech/manifest")  # fmt: skip
MOST_FALSE_ALARMS = 1.0
_FEW, _TARGETS = 50, (100, 200, 400)
# Of 30 intervals of 80 %, so many hold, if they are honest.
LEAST_SHARE = 0.7


# --- aliases


def aliases(out: Path, voices: int) -> dict[str, Any]:
    """Recall of rare words, and false alarms, with and without aliases."""
    from moonshine_tune.data.aliases.run import AliasesRequest, find_aliases

    rare = read_manifest(SHARED / f"{_RARE}.jsonl").utterances
    terms = sorted({word for item in rare for word in item.extra.get("rare_words", ())})
    terms_file = out / "terms.txt"
    terms_file.write_text("".join(f"{term}\n" for term in terms), encoding="utf-8")
    request = AliasesRequest(
        terms_file, out / "aliases.json", "tiny", voices=voices, device="cpu", force=True
    )
    table = find_aliases(request, TerminalProgress()).record.aliases
    normalizer = normalizer_for("english-1")
    sets = {}
    for name in _ALIAS_SETS:
        utterances = read_manifest(SHARED / f"{name}.jsonl").utterances
        texts = _transcripts(out / f"{name.replace('/', '-')}.json", utterances)
        references = [item.reference for item in utterances]
        figures: dict[str, Any] = {}
        for arm, hypotheses in (
            ("plain", texts), ("aliases", [apply_aliases(text, table) for text in texts])
        ):  # fmt: skip
            score = score_key_terms(terms, references, hypotheses, normalizer)
            wer = summarize(score_utterances(utterances, hypotheses, normalizer)).wer
            figures[arm] = score.to_record() | {
                "wer": round(wer, 2),
                "words": score.hypothesis_words,
            }
        figures["changed"] = sum(apply_aliases(text, table) != text for text in texts)
        sets[name] = figures
    words = sum(item["aliases"]["words"] for item in sets.values())
    added = sum(
        item["aliases"]["false_alarms"] - item["plain"]["false_alarms"] for item in sets.values()
    )
    gained = sets[_RARE]["aliases"]["recalled"] - sets[_RARE]["plain"]["recalled"]
    rate = 1000 * added / max(words, 1)
    return {
        "terms": len(terms), "aliases": len(table), "sets": sets,
        "false_alarms_per_1000_words": round(rate, 3), "recalled_more": gained,
        "passed": rate <= MOST_FALSE_ALARMS and gained > 0,
    }  # fmt: skip


def _transcripts(path: Path, utterances: Sequence[Utterance]) -> list[str]:
    """What tiny writes for each utterance, kept in a file."""
    from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
    from moonshine_tune.registry.open import open_model

    if not path.is_file():
        opened = open_model("tiny", device="cpu", dtype="float32", progress=TerminalProgress())
        transcriber = TorchTranscriber(opened.model, opened.limits)
        result = transcribe_utterances(transcriber, utterances, TerminalProgress(), path.stem)
        write_json_atomic(path, {"texts": list(result.texts)})
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))["texts"]
    return texts


# --- trainings


def _corpus(name: str) -> tuple[list[Utterance], list[Utterance]]:
    """The clips of a corpus to choose from, and dev clips of other speakers."""
    train = read_manifest(SHARED / name / "train.jsonl").utterances
    dev = SHARED / name / "dev.jsonl"
    if dev.is_file():
        return list(train), list(read_manifest(dev).utterances)
    parts = split_utterances(train, dev=0.12, test=0.0)
    return list(parts.train), list(parts.dev)


def _settings(train: Path, dev: Path, seed: int, own: Sequence[str]) -> ResolvedSettings:
    from moonshine_tune.config.resolve import parse_assignments

    manifests = {"data.train": str(train), "data.dev": str(dev), "train.seed": seed}
    replay = SHARED / "replay_audio" / "manifest.jsonl"
    layers = with_model_preset([("flag", {**manifests, "data.replay": str(replay)})])
    return resolve_settings([*layers, ("--set", parse_assignments(own))])


def _trained_wer(settings: ResolvedSettings, out: Path) -> float:
    """Dev WER of a training, which is not made again."""
    from moonshine_tune.training.run import train

    run = RunFolder(out)
    if not run.record_path.is_file() or run.read_record().status not in ENDED:
        train(settings, out, SilentProgress(), resume=run.state_dir.is_dir())
    wer = run.read_record().result.best.dev_wer
    return float(wer) if wer is not None else 100.0


def curve(out: Path, corpora: Sequence[str], draws: int, own: Sequence[str]) -> dict[str, Any]:
    """Predictions from 50 clips beside what as many clips give."""
    rows = []
    for name in corpora:
        pool, dev = _corpus(name)
        dev_file = out / f"{name}-dev.jsonl"
        write_manifest(dev_file, dev)
        targets = [min(size, len(pool)) for size in _TARGETS]
        for draw in range(draws):
            few = out / f"{name}-{draw}.jsonl"
            write_manifest(few, subset(pool, _FEW, draw))
            request = CurveRequest(
                out / f"{name}-{draw}-curve",
                _settings(few, dev_file, 10 * draw, own),
                more=tuple(size - _FEW for size in targets),
            )
            record = learning_curve(request, TerminalProgress()).record
            for size, expected in zip(targets, record.predictions, strict=True):
                many = out / f"{name}-{draw}-{size}.jsonl"
                write_manifest(many, subset(pool, size, draw))
                settings = _settings(many, dev_file, 100 + draw, own)
                wer = _trained_wer(settings, out / f"{name}-{draw}-{size}")
                row: dict[str, Any] = {
                    "corpus": name, "draw": draw, "recordings": size, "expected": expected.wer,
                    "low": expected.low, "high": expected.high, "trained": round(wer, 2),
                    "holds": expected.low <= wer <= expected.high,
                }  # fmt: skip
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    share = sum(row["holds"] for row in rows) / max(len(rows), 1)
    return {"rows": rows, "holds": round(share, 3), "passed": share >= LEAST_SHARE}


def simulated(draws: int) -> dict[str, Any]:
    """The same with made-up curves and errors: floors, powers, spreads and sizes of dev vary."""
    rng = np.random.default_rng(1)
    holds = 0
    for _ in range(draws):
        base, power = rng.uniform(15, 60), rng.uniform(0.3, 1.5)
        floor, half = rng.uniform(0, 0.8) * base, np.exp(rng.uniform(np.log(2), np.log(200)))
        words = rng.integers(3, 12, rng.integers(40, 200)).astype(float)
        hardness = rng.gamma(2, 0.5, len(words))
        hardness *= words.sum() / (hardness * words).sum()
        spread = rng.uniform(0.03, 0.12)

        def trained(size: int) -> Array:
            wer = floor + (base - floor) * (1 + size / half) ** -power  # noqa: B023
            wer *= np.exp(np.hypot(spread, 0.04) * rng.standard_normal())  # noqa: B023
            errors: Array = rng.poisson(words * hardness * wer / 100).astype(float)  # noqa: B023
            return errors

        trainings = [Training(size, trained(size)) for size in (6, 12, 25, _FEW) for _ in range(3)]
        made_up = LearningCurve(trainings, words * base / 100, words)
        for size in _TARGETS:
            expected = made_up.predict(size)
            wer = 100 * trained(size).sum() / words.sum()
            holds += bool(expected.low <= wer <= expected.high)
    share = holds / (draws * len(_TARGETS))
    return {"intervals": draws * len(_TARGETS), "hold": holds, "passed": share >= LEAST_SHARE}


def next_against_random(
    out: Path, corpora: Sequence[str], count: int, seeds: int, own: Sequence[str]
) -> dict[str, Any]:
    """Dev WER after training on chosen sentences, and on as many random ones."""
    results: dict[str, Any] = {}
    for name in corpora:
        pool, dev = _corpus(name)
        dev_file, pool_file = out / f"{name}-dev.jsonl", out / f"{name}-pool.jsonl"
        write_manifest(dev_file, dev)
        write_manifest(pool_file, pool)
        chosen = next_sentences(NextRequest((pool_file,), count=count), SilentProgress()).sentences
        wanted = [item.text for item in chosen]
        # Of several readings of a sentence, the first one.
        by_text = {" ".join((item.text or "").split()): item for item in reversed(pool)}
        ways: dict[str, list[float]] = {"next": [], "random": []}
        for seed in range(seeds):
            drawn = random.Random(seed).sample(pool, len(wanted))
            for way, clips in (("next", [by_text[text] for text in wanted]), ("random", drawn)):
                manifest = out / f"{name}-{way}-{seed}.jsonl"
                write_manifest(manifest, clips)
                settings = _settings(manifest, dev_file, seed, own)
                ways[way].append(_trained_wer(settings, out / f"{name}-{way}-{seed}"))
        means = {way: round(sum(wers) / len(wers), 2) for way, wers in ways.items()}
        results[name] = {"count": len(wanted), "means": means, "trainings": ways}
        print(json.dumps({name: results[name]}), file=sys.stderr, flush=True)
    passed = all(item["means"]["next"] <= item["means"]["random"] for item in results.values())
    return {"corpora": results, "passed": passed}


def main() -> int:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("aliases", "curve", "simulated", "next"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", nargs="+", default=None)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--voices", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], dest="own")
    given = parser.parse_args()
    apply_environment_defaults()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "aliases":
        result = aliases(given.out, given.voices)
    elif given.what == "curve":
        result = curve(given.out, given.corpus or ["an4", "accent"], given.draws, given.own)
    elif given.what == "simulated":
        result = simulated(5 * given.draws)
    else:
        result = next_against_random(
            given.out, given.corpus or ["accent"], given.count, given.seeds, given.own
        )
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
