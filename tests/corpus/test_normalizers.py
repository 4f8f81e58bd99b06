"""Named normalizers: which words count as the same."""

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import NORMALIZERS, normalizer_for, split_hyphens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P-i-t-t-s", "p i t t s"),
        ("Twenty-one.", "21"),
        ("twenty one", "21"),
        ("It's the colour; isn't it?", "it is the color is not it"),
        ("It’s the colour; isnʼt it?", "it is the color is not it"),
        ("don`t, can´t", "do not can not"),
        ("Dr. Smith paid $5", "doctor smith paid $5"),
        ("uh well, HELLO", "well hello"),
        ("well-known", "well known"),
        ("  many   spaces\n", "many spaces"),
        ("Wait... what?", "wait what"),
        ("it was…", "it was"),
        ("it was..", "it was"),
        ("at 3.5 percent.", "at 3.5%"),
        ("...", ""),
        ("…", ""),
        ("", ""),
    ],
)
def test_english(text: str, expected: str) -> None:
    assert normalizer_for("english-1")(text) == expected


def test_english_writes_numbers_as_digits() -> None:
    english = normalizer_for("english-1")
    assert english("one hundred and five") == english("105")
    assert english("P-I-T-T-S") == english("p i t t s")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P-i-t-t-s", "p i t t s"),
        ("twenty-one", "twenty one"),
        ("Don't STOP, please!", "don't stop please"),
        ("Don’t", "don't"),
        ("Donʼt don′t don´t", "don't don't don't"),
        ("5′4, the dogs’ bone", "5 4 the dogs bone"),
        ("الرحلة ٣٤", "الرحلة 34"),
        ("उड़ान ३४", "उड़ान 34"),
        ("مرحـــبا", "مرحبا"),
        ("'quoted'", "quoted"),
        ("l’été — c'est ça", "l'été c'est ça"),
        ("Straße, GRÜN", "straße grün"),
        ("東京、大阪。", "東京 大阪"),
        ("한국어 음성", "한국어 음성"),
        ("हिन्दी, भाषा।", "हिन्दी भाषा"),
        ("مرحبا، بالعالم", "مرحبا بالعالم"),
        ("ＡＢＣ１２", "abc12"),
        ("cafe\u0301", "café"),
        ("a_b 3.5 %", "a b 3 5"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_basic(text: str, expected: str) -> None:
    assert normalizer_for("basic-1")(text) == expected


def test_spelled_keeps_the_spelling_of_numbers() -> None:
    spelled, english = normalizer_for("spelled-1"), normalizer_for("english-1")
    assert spelled("four six two") != spelled("462")
    assert spelled("Four-Six-Two!") == "four six two"
    assert english("four six two") == english("462")


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
@pytest.mark.parametrize(
    "text",
    [
        "It's twenty-one P-i-t-t-s, isn't it?",
        "l’été à 5 €",
        "東京 Tower",
        "Zürich’s 3rd",
        "a--b - c",
        "So... no",
    ],
)
def test_normalizing_again_changes_nothing(name: str, text: str) -> None:
    once = NORMALIZERS[name](text)
    assert NORMALIZERS[name](once) == once
    assert once == " ".join(once.split())


def test_only_hyphens_inside_words_are_split() -> None:
    assert split_hyphens("well‑known – and -5") == "well known – and -5"
    assert split_hyphens("a-b‐c–d") == "a b c d"


@pytest.mark.parametrize(
    ("language", "name"),
    [("en", "english-1"), ("en-GB", "english-1"), ("EN", "english-1"), ("ko", "basic-1"),
     ("de", "basic-1")],
)  # fmt: skip
def test_the_language_selects_the_default(language: str, name: str) -> None:
    assert normalizer_for(None, language).name == name


def test_a_name_overrides_the_language() -> None:
    assert normalizer_for("spelled-1", "ko").name == "spelled-1"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match="'english'") as caught:
        normalizer_for("english")
    assert caught.value.hint == "one of: english-1, basic-1, spelled-1"


def test_every_normalizer_knows_its_name() -> None:
    assert all(name == normalizer.name for name, normalizer in NORMALIZERS.items())
