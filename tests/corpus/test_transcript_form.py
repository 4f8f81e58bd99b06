"""The form of transcripts: labels, placeholders, markup and speakers, and repairs of them."""

import random
import unicodedata

import pytest

from moonshine_tune.corpus.transcript_form import (
    CERTAIN,
    KINDS,
    FormMatch,
    clean_text,
    count_form,
    find_form,
    is_silence_label,
    names_before,
    repaired,
    without_prefix,
)


def kinds(text: str, speaker: str | None = None) -> set[str]:
    return {match.kind for match in find_form(text, speaker)}


# --- white space and code points


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (" two  spaces\tand\r\na line ", "two spaces and a line"),
        ("no\u00a0break, thin\u2009and wide\u3000space", "no break, thin and wide space"),
        ("\ufeffmark, so\u00adft hy\u200bphen, \u200eleft\u200f", "mark, soft hyphen, left"),
        ("cafe\u0301", "café"),
        (unicodedata.normalize("NFD", "Tiếng Việt ơi"), "Tiếng Việt ơi"),
        (unicodedata.normalize("NFD", "안녕하세요 오늘"), "안녕하세요 오늘"),
        (" \u00a0\u200b\n", ""),
    ],
)
def test_spaces_and_code_points_are_read_in_one_way(written: str, read: str) -> None:
    assert clean_text(written) == read
    assert clean_text(read) == read


@pytest.mark.parametrize(
    "text",
    [
        "Il a dit : « Vraiment ? Oui ! »",
        "می\u200cخواهم بروم",
        "क्\u200dष और श्री",
        "ភាសា\u200bខ្មែរ",
        "السـلام عليكم",
        "Straße, ıspanak, İstanbul",
        "👨\u200d👩\u200d👧 family",
    ],
)
def test_what_has_a_meaning_is_not_changed(text: str) -> None:
    assert clean_text(text) == text
    assert find_form(text) == ()


# --- whole texts


@pytest.mark.parametrize(
    "text",
    ["sil", "sp", "SPN", "<eps>", "<unk>", "!SIL", "<p:>", "[noise]", "[NOISE] [laughter]",
     "♪ ♪ ♪", "(laughter)", "*coughs*", "[phone rings]", "[Applause]",
     "[Applaudissements]", "(Gelächter)", "[음악]",
     "（笑）", "[Смех]", "[तालियाँ]", "[BLANK_AUDIO]", "<SPOKEN_NOISE>", "++BREATH++", "&=laughs",
     "(.)", "[door slams]", "(soft music playing)", "sil sil", " <sil> "],
)  # fmt: skip
def test_labels_of_silence(text: str) -> None:
    assert is_silence_label(text)
    assert kinds(clean_text(text)) <= {"silence_label", "possible_label"}


@pytest.mark.parametrize(
    "text",
    ["", "...", "silence", "noise", "music", "still", "(and I quote)", "[laughter-yeah]", "yes",
     "[noise] yes", "Silvia", "spin", "*really*", "(the music stopped)", "♪ la la ♪", "웃음", "笑"],
)  # fmt: skip
def test_words_are_no_labels_of_silence(text: str) -> None:
    assert not is_silence_label(text)


@pytest.mark.parametrize(
    "text",
    ["NaN", "#NAME?", "#REF!", "#N/A", "#VALUE!", "#BEZUG!", "#NOM?", "#DIV/0!", "Err:502", "N/A",
     "n/a", "<NA>", "-", "--", "???", "\\N", "(null)", "[missing]", "#N/V", "######", "=SUM(A1:A3)",
     "=B2", "1.23457E+12", "1900-01-00", "[object Object]", "(no transcript)", "[no speech]"],
)  # fmt: skip
def test_placeholders(text: str) -> None:
    assert kinds(text) == {"placeholder"}


@pytest.mark.parametrize(
    "text",
    ["nan", "None", "NULL", "null", "na", "TODO", "missing", "tbd", "TRUE", "WAHR", "nan.", "n.a.",
     "unknown", "silence", "-- no transcript --", "No speech", "2-Jan", "Jan-02", "take_1.wav"],
)  # fmt: skip
def test_words_that_may_be_placeholders_are_asked(text: str) -> None:
    assert kinds(text) == {"possible_label"}
    assert "possible_label" not in CERTAIN


@pytest.mark.parametrize(
    "text",
    ["Null Uhr fünf", "None of them", "Todo va bien", "Nan came over.", "na ja", "no", "null.",
     "one - two", "What?", "#1 hit", "missing you", "true story", "no speech today", "May 2", "jan",
     "silence please", "= is a sign", "two e plus three"],
)  # fmt: skip
def test_sentences_are_no_placeholders(text: str) -> None:
    assert kinds(text) == set()


@pytest.mark.parametrize(
    "text",
    ["['go', 'left']", '{"text": "go left"}', '[{"text": "a"}, {"text": "b"}]', "('a', 'b')",
     "array(['go left'], dtype=object)", '["go left"]', "{'en': 'go', 'fr': 'va'}",
     "b'go left'", 'u"go"'],
)  # fmt: skip
def test_lists_and_objects(text: str) -> None:
    assert kinds(text) == {"list_or_object"}


# --- parts of texts


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("You don &apos;t, it &apos;s", "You don't, it's"),
        ("AT&amp;T &amp; R&amp;B", "AT&T & R&B"),
        ("It&#39;s &#x27;fine&#x27;", "It's 'fine'"),
        ("a &quot; better &quot; one", 'a "better" one'),
        ("do n&apos;t you", "don't you"),
        ("the boys &apos; house", "the boys' house"),
        ("l &apos; eau d &apos;Evian", "l'eau d'Evian"),
        ("dell &apos; acqua", "dell'acqua"),
        ("ik ga &apos;s avonds in &apos;t bos", "ik ga 's avonds in 't bos"),
        ("get &apos;em all &apos;em", "get 'em all 'em"),
        ("Smith &amp;amp; Sons", "Smith & Sons"),
        ("caf&eacute; fr&uuml;h", "café früh"),
        ("&lt;unk&gt; yes", "yes"),
        ("twenty @-@ one", "twenty-one"),
        ("<b>do</b>n't <i>go</i><br>now", "don't go now"),
        ("{\\an8}Hi\\Nyou", "Hi you"),
        ("<v Anna>hi <c.yellow>you</c> <00:00:01.000>", "hi you"),
        ('<font color="#fff">hi</font>', "hi"),
        ("<|en|> hi <|0.00|>", "hi"),
        ("**bold** __and__ `code` ~~gone~~", "bold and code gone"),
        ("see [the page](https://x.org/a).", "see the page."),
        ("fine [laughter], yes", "fine, yes"),
        ("Oui [rires] !", "Oui !"),
        ("*laughs* I know ((right)) ++BREATH++ %hesitation", "I know right"),
        ("♪ la la ♪ _noise_", "la la"),
        ("（笑）そうですね", "そうですね"),
        ("[[noise]] yes (.) no (0.5)", "yes no"),
        ("#00:00:03-5# yes #00:00:09# no", "yes no"),
    ],
)
def test_a_repair_decodes_entities_and_removes_marks_and_sounds(text: str, fixed: str) -> None:
    assert repaired(text, "markup") == fixed


@pytest.mark.parametrize(
    "text",
    ["x < y and y > z in the proof", "x <y and y> z", "5 < 6", "2*3*4", "a = b = c", "Q&A; R&B",
     "100 %sure", "snake_case_name", "at 12:30, Psalm 23:1", "Note: this is it", "a - b",
     "C# and F#", "AT&T", "a<b>c", "#hashtag!", "C:\\new",
     "you+me", "e-mail me@x.org", "Il dit CAFÉ» fini", "it's 5 % more",
     "rock 'n' roll", "¿Qué? ¡No!", "„Nein“, sagte er", "Ça va ? Oui !", "그래요? 네!",
     "Xin chào các bạn"],
)  # fmt: skip
def test_honest_texts_have_no_findings(text: str) -> None:
    assert find_form(text) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("He said (and I quote) nothing", "parentheses"),
        ("walk(ing) home", "parentheses"),
        ("[laughter-yeah] I know", "bracketed_words"),
        ("[ I, + I think ] so", "bracketed_words"),
        ("{D you know,} well", "bracketed_words"),
        ("*really* good", "bracketed_words"),
        ("[the] man", "bracketed_words"),
        ("[ring road] left", "bracketed_words"),
        ("<um> yes", "bracketed_words"),
        ("<PERSON> came", "bracketed_words"),
        ("{um} yes", "bracketed_words"),
        ("(bell)", "parentheses"),
        ("ANNA: hello there", "possible_speaker"),
    ],
)
def test_what_may_be_speech_is_asked_and_not_changed(text: str, kind: str) -> None:
    assert kinds(text) == {kind}
    assert kind not in CERTAIN
    for certain in CERTAIN:
        assert repaired(text, certain) == text


@pytest.mark.parametrize(
    ("text", "speaker", "fixed"),
    [
        (">> hello. >> hi", None, "hello. hi"),
        ("Speaker 1: hi", None, "hi"),
        ("SPEAKER_00: hi", None, "hi"),
        ("SPEAKER_01 hi", None, "hi"),
        ("[Speaker 2] hi", None, "hi"),
        ("화자 1: 안녕", None, "안녕"),
        ("[Anna]: hi", None, "hi"),
        ("Anna: hi", "anna", "hi"),
    ],
)
def test_speakers_before_the_words(text: str, speaker: str | None, fixed: str) -> None:
    assert kinds(text, speaker) == {"speaker_prefix"}
    assert repaired(text, "speaker_prefix", speaker) == fixed


def test_names_before_the_words_are_known_by_their_corpus() -> None:
    dialogue = ["Anna: hi", "Ben: hello", "Anna: how are you?", "Ben: fine"]
    names = names_before(dialogue, ())
    assert names == {"anna", "ben"}
    assert [match.kind for match in find_form("Anna: hi", names=names)] == ["possible_speaker"]
    assert without_prefix("안나： 안녕") == "안녕"
    assert names_before(["Note: this", "Listen: that", "Note: more"], ()) == frozenset()
    assert names_before(["Anna: hi", "yes"], ["Anna"]) == {"anna"}


@pytest.mark.parametrize(
    "text",
    ["cafÃ© au lait", "РџСЂРёРІРµС‚", "caf\ufffd", "don\x92t", "donâ€™t", "caf\\u00e9", "\ufb01ne",
     "caf\\xc3\\xa9", "\ue012 yes"],
)  # fmt: skip
def test_characters_of_a_wrong_encoding(text: str) -> None:
    assert "broken_characters" in kinds(text)


def test_counts_name_each_kind_once_a_text() -> None:
    texts = ["<b>hi</b> you", "NaN", "fine", None, "nan"]
    counts = count_form(texts)
    assert counts == {"placeholder": 1, "possible_label": 1, "markup": 1}
    assert list(counts) == [kind for kind in KINDS if kind in counts]


_PIECES = ["hello", "we", "(and I)", "[noise]", "<b>", "</b>", "x < y", "♪", "*coughs*", "&amp;",
           "don &apos;t", "née", "ANNA:", "{\\an8}", "[the]", "((so))", "「はい」", "네", ",", "!",
           "?", "<unk>", "**", "_", "&", ">>", "12:30", "{F uh,}", "it's", "++UM++"]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_repair_changes_only_the_characters_of_its_matches(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(60):
        text = clean_text(rng.choice(["", " "]).join(rng.choices(_PIECES, k=rng.randint(1, 9))))
        fixed, expected = repaired(text, kind), text
        # A repair can uncover a match, such as a tag that was written in entities.
        for _round in range(3):
            matches = [match for match in find_form(expected) if match.kind == kind]
            expected = _with_replacements(expected, matches)
        assert fixed.replace(" ", "") == expected.replace(" ", ""), text


def _with_replacements(text: str, matches: list[FormMatch]) -> str:
    """Every character outside the matches, in its order; a replacement brings no new letters."""
    result, position = "", 0
    for match in sorted(matches, key=lambda match: match.start):
        assert match.start >= position
        matched = text[match.start : match.end]
        assert "&" in matched or set(match.replacement) <= {*matched, " "}
        result += text[position : match.start] + match.replacement
        position = match.end
    return clean_text(result + text[position:])


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("I saw a \u0441at", "I saw a cat"),
        ("Hell\u043e w\u043erld", "Hello world"),
        ("\u041a\u0438\u0457\u0432 k\u0456\u0442", "\u041a\u0438\u0457\u0432 k\u0456\u0442"),
        ("\u041a\u0438\u0457\u0432 \u043ai\u0442", "\u041a\u0438\u0457\u0432 \u043a\u0456\u0442"),
        ("A\u03b8\u03ae\u03bd\u03b1", "\u0391\u03b8\u03ae\u03bd\u03b1"),
        ("\uff48\uff45\uff4c\uff4c\uff4f \uff11\uff12", "hello 12"),
        ("\U0001d407\U0001d41e\U0001d425\U0001d425\U0001d428 there", "Hello there"),
        ("\ufee3\ufeae\ufea3\ufe92\ufe8e", "\u0645\u0631\u062d\u0628\u0627"),
        ("\uff76\uff9e\uff76", "\u30ac\u30ab"),
        ("I don\u00b4t, it`s l\u00b4eau", "I don't, it's l'eau"),
    ],
)
def test_letters_that_only_look_right_are_written_plainly(written: str, plain: str) -> None:
    assert repaired(clean_text(written), "lookalike_letters") == plain
    assert ("lookalike_letters" in count_form([written])) == (written != plain)


@pytest.mark.parametrize(
    "text",
    [
        "iPhone\u306e\u30b1\u30fc\u30b9",
        "\uff21\uff22\uff23\u653e\u9001\u3067\u3059",
        "SMS\u043a\u0438 VIP\u0430 Wi-Fi-\u0440\u043e\u0443\u0442\u0435\u0440 \u0438 PC",
        "\u0432 XXI \u0432\u0435\u043a\u0435 \u043e\u0441\u044c x 3x4",
        "10 \u03bcm, 5 k\u03a9, \u0394T and TNF\u03b1",
        "\u0414\u043e\u0431\u0430\u0440 \u0434\u0430\u043d, Beograd je lep",
        "caf\u00b4e x\u00b2 \u00bd \u2116 \u0133s \u0e19\u0e49\u0e33 \ufdfa",
        "\u0645\u06cc\u200c\u0631\u0648\u0645",
    ],
)
def test_scripts_that_are_mixed_on_purpose_stay(text: str) -> None:
    assert not {"lookalike_letters", "possible_lookalike"} & count_form([text]).keys()
    assert clean_text(text) == text


def test_a_doubtful_word_is_named_and_kept() -> None:
    for text in ("I saw \u0430 cat", "Ko\u042fn sings", "\ufe8e\ufe92\ufea3\ufeae\ufee3"):
        assert "possible_lookalike" in count_form([text]), text
        assert repaired(text, "lookalike_letters") == text


def test_joiners_between_latin_letters_go() -> None:
    assert clean_text("c\u200cat \u061cdog\u2066") == "cat dog"
