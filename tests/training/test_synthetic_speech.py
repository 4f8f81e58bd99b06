"""Training on synthetic clips: which clips are dev, what is recorded, and weighted terms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training_runs import Training

from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.config.settings import AugmentSettings, DataSettings, RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.inference.dataset import SpeechDataset, TrainingData
from moonshine_tune.models.losses import (
    IGNORED,
    FrozenHead,
    cross_entropy_sum,
    head_cross_entropy_sum,
)
from moonshine_tune.runs.records import RunRecord, SyntheticSpeechRecord
from moonshine_tune.training.augmentation import AugmentedDataset, open_noise_banks
from moonshine_tune.training.run import train
from moonshine_tune.training.term_weights import weigh_terms
from moonshine_tune.training.train_dev_split import train_and_dev


class LetterTokenizer:
    """A token for each letter, as far as spans go."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(index, index + 1) for index in range(len(text))]


def _dataset(*texts: str) -> SpeechDataset:
    utterances = tuple(Utterance(str(n), Path("x.wav"), text) for n, text in enumerate(texts))
    tokens = tuple(tuple(range(len(text))) for text in texts)
    return SpeechDataset(utterances, (1.0,) * len(texts), tokens, ())


def _weighed(terms: list[str], *texts: str, weight: float = 3.0):
    tokenizer: Any = LetterTokenizer()
    return weigh_terms(_dataset(*texts), terms, weight, tokenizer)


# --- weighted terms


def test_tokens_of_whole_words_weigh_more_whatever_their_case() -> None:
    weights = _weighed(["Wal mart"], "a WAL-MART b", "walmart", "wal marts")
    assert weights.by_clip == {0: (1.0,) * 2 + (3.0,) * 8 + (1.0,) * 3}
    assert weights.total([0]) == 2 + 24 + 3 and weights.total([0, 1]) == 29 + 8
    batch = weights.batch([1, 0], 16, torch.device("cpu"))
    assert batch.sum(dim=1).tolist() == [8.0, 29.0]
    assert not batch[0, 8:].any(), "padding weighs nothing"


def test_terms_that_no_text_has_are_refused() -> None:
    with pytest.raises(RequestError, match="any of 1 terms"):
        _weighed(["xyz"], "a b")


def test_a_weighted_loss_and_its_gradient_are_those_of_weighted_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    head_weight = torch.randn(40, 6, generator=generator)
    hidden = torch.randn(2, 5, 6, generator=generator, requires_grad=True)
    targets = torch.tensor([[1, 2, 3, 4, IGNORED], [5, 6, IGNORED, IGNORED, IGNORED]])
    weights = torch.tensor([[1.0, 3.0, 3.0, 1.0, 0.0], [2.0, 1.0, 0.0, 0.0, 0.0]])
    loss = head_cross_entropy_sum(hidden, FrozenHead(head_weight), targets, weights)
    loss.backward()
    gradient, hidden.grad = hidden.grad, None
    each = torch.nn.functional.cross_entropy(
        (hidden @ head_weight.T).transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    (each * weights).sum().backward()
    torch.testing.assert_close(loss, (each * weights).sum().detach().requires_grad_())
    torch.testing.assert_close(gradient, hidden.grad)
    plain = head_cross_entropy_sum(hidden, FrozenHead(head_weight), targets)
    ones = head_cross_entropy_sum(
        hidden, FrozenHead(head_weight), targets, torch.ones_like(weights)
    )
    assert torch.equal(plain, ones)
    torch.testing.assert_close(plain, cross_entropy_sum(hidden @ head_weight.T, targets))


# --- train and dev


def _clips(
    prefix: str, count: int, *, synthetic: bool = False, text: Callable[[int], str] = str
) -> tuple[Utterance, ...]:
    return tuple(
        Utterance(
            f"{prefix}{n}", Path(f"/x/{prefix}{n}.wav"), text(n), f"{prefix}{n % 4}", 1.0,
            extra={"synthetic": True} if synthetic else {},
        )
        for n in range(count)
    )  # fmt: skip


def _sets(train: tuple[Utterance, ...], dev: tuple[Utterance, ...] | None = None):
    path = Path("/x/train.jsonl")
    data = TrainingData(Manifest(path, train, ""), None if dev is None else Manifest(path, dev, ""))
    return train_and_dev(RunSettings(data=DataSettings(train=path)), data)


def test_dev_is_held_out_of_the_real_clips_alone() -> None:
    sets = _sets((*_clips("voice", 40, synthetic=True), *_clips("anna", 20)))
    assert sets.dev and not any(item.is_synthetic for item in sets.dev)
    assert sum(item.is_synthetic for item in sets.train) == 40
    assert any("are also those of synthetic" in remark for remark in sets.remarks)


def test_synthetic_clips_of_a_dev_manifest_are_left_out_where_it_has_real_ones() -> None:
    dev = (*_clips("ben", 3), *_clips("robot", 5, synthetic=True))
    sets = _sets(_clips("voice", 9, synthetic=True), dev)
    assert [item.id for item in sets.dev] == ["ben0", "ben1", "ben2"]
    assert "dev: kept 3 of 8 clips: the others are synthetic" in sets.remarks
    only = _sets(_clips("voice", 9, synthetic=True), dev[3:])
    assert len(only.dev) == 5


def test_synthetic_speech_alone_is_split_by_voice_and_text() -> None:
    sets = _sets(_clips("voice", 80, synthetic=True))
    assert not {item.speaker for item in sets.train} & {item.speaker for item in sets.dev}
    assert not {item.text for item in sets.train} & {item.text for item in sets.dev}


def test_texts_that_all_voices_speak_are_split_by_text() -> None:
    sets = _sets(_clips("voice", 80, synthetic=True, text=lambda n: f"text {n // 4}"))
    assert len(sets.train) > 60 and sets.dev
    assert not {item.text for item in sets.train} & {item.text for item in sets.dev}


def test_a_single_real_clip_trains_and_synthetic_ones_are_dev() -> None:
    real = _clips("anna", 1)
    sets = _sets((*_clips("voice", 40, synthetic=True), *real))
    assert real[0] in sets.train and all(item.is_synthetic for item in sets.dev)


# --- records


def test_a_synthetic_dev_says_nothing_about_real_voices() -> None:
    real = SyntheticSpeechRecord(train=5, dev_real=3, share=1.0)
    assert real.sentence == "all training clips are synthetic; dev has real voices only"
    alone = RunRecord(synthetic=SyntheticSpeechRecord(train=5, dev=3, share=1.0))
    assert alone.dev_voices == "for synthetic voices: says nothing about real ones"
    assert RunRecord(synthetic=real).dev_voices == ""
    mixed = SyntheticSpeechRecord(train=3, train_real=1, dev=2, share=0.75)
    assert "3 of 4 training clips are synthetic, 75% of each step" in mixed.sentence
    assert "its WER says nothing about real voices" in mixed.sentence


def test_synthetic_clips_have_a_share_of_augmentation_of_their_own() -> None:
    clips = (*_clips("anna", 40), *_clips("voice", 40, synthetic=True))
    dataset = SpeechDataset(clips, (1.0,) * 80, ((1,),) * 80, ())
    settings = AugmentSettings(synthetic_share=1.0, gain_chance=1.0)
    augmented = AugmentedDataset(dataset, settings, open_noise_banks(settings), seed=0)
    drawn = augmented.augmented_indices(range(80), step=3)
    assert drawn[:40] == list(range(40)) and all(index >= 80 for index in drawn[40:])
    assert "100% of the draws of synthetic clips" in augmented.remarks[0]
    off = AugmentSettings(synthetic_share=0.0)
    plain = AugmentedDataset(dataset, off, open_noise_banks(off), seed=0)
    assert plain.remarks == () and plain.augmented_indices([50], 3) == [50]


# --- a run


@pytest.fixture
def mixed_folder(speech_folder: Path, tmp_path: Path) -> Path:
    """Five real clips in train.jsonl, three synthetic ones in synthetic.jsonl, and terms."""
    lines = [
        json.loads(line) | {"audio": str(speech_folder / json.loads(line)["audio"])}
        for line in (speech_folder / "train.jsonl").read_text().splitlines()
    ]
    for name, part in (("train", lines[:5]), ("synthetic", lines[5:])):
        content = "".join(json.dumps(line) + "\n" for line in part)
        (tmp_path / f"{name}.jsonl").write_text(content)
    (tmp_path / "terms.txt").write_text("cities\nfar\n")
    return tmp_path


@pytest.mark.usefixtures("one_thread")
def test_a_mixed_run_with_weighted_terms_is_the_same_in_any_batches(
    saved_v1: Path, speech_folder: Path, mixed_folder: Path
) -> None:
    training, losses = Training(saved_v1, speech_folder), []
    for batch, accumulation in ((6, 1), (1, 6)):
        content = training.content()
        content["data"] |= {
            "train": str(mixed_folder / "train.jsonl"),
            "synthetic": str(mixed_folder / "synthetic.jsonl"),
            "terms": str(mixed_folder / "terms.txt"),
        }
        content["adapter"] = {"rank": 4}
        content["train"] |= {
            "steps": 3, "batch_size": batch, "accumulation": accumulation, "term_weight": 4.0,
        }  # fmt: skip
        out = mixed_folder / f"run{batch}"
        result = train(resolve_settings([("test", content)]), out, SilentProgress())
        losses.append([line["loss"] for line in training.lines(out) if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    record = json.loads((out / "run.json").read_text())
    assert record["synthetic"] == {
        "train": 3, "train_real": 5, "dev": 0, "dev_real": 3, "share": 0.375,
    }  # fmt: skip
    assert {"synthetic", "terms"} <= set(record["data"])
    assert result.synthetic is not None
    assert "3 of 8 training clips are synthetic" in result.synthetic.sentence
    assert any(remark.startswith("terms: 2 of 2 are in 2 of 8") for remark in result.remarks)


def test_a_weight_without_terms_is_refused(
    saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    settings = Training(saved_v1, speech_folder).settings(train__term_weight=2.0)
    with pytest.raises(RequestError, match="needs a list of terms"):
        train(settings, tmp_path / "run", SilentProgress())
