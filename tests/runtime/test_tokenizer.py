"""The runtime's tokenizer file: read as written, and the tokenizer made from it."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.tokenizer import read_pieces, tokenizer_json, write_tokenizer_bin


def _packed(pieces: list[bytes]) -> bytes:
    """The format, written by hand: a length of one byte, or of two from 128 on, and the piece."""
    parts = []
    for piece in pieces:
        size = len(piece)
        head = bytes([size]) if size < 128 else bytes([size % 128 + 128, size // 128])
        parts.append(head + piece)
    return b"".join(parts)


def _vocabulary(*words: str) -> list[bytes]:
    """Special ids, the 256 bytes, then words: as in the real file."""
    special = [b"<unk>", b"<s>", b"</s>"]
    return [*special, *(bytes([b]) for b in range(256)), *(word.encode() for word in words)]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 255, 256, 1000, 16_383])
def test_pieces_of_every_length_are_read(tmp_path: Path, size: int) -> None:
    pieces = [b"a", b"x" * size, "東".encode()]
    (tmp_path / "tokenizer.bin").write_bytes(_packed(pieces))
    assert read_pieces(tmp_path / "tokenizer.bin") == pieces


@pytest.mark.parametrize("cut", [1, 2, 130])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(_packed([b"word", b"x" * 200])[:-cut])
    with pytest.raises(RequestError, match="cut off") as caught:
        read_pieces(path)
    assert caught.value.where == str(path)
    path.write_bytes(b"\xc8")
    with pytest.raises(RequestError, match="cut off"):
        read_pieces(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no tokenizer\.bin"):
        read_pieces(tmp_path / "tokenizer.bin")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = ["▁", "a", "t", "c", "s", "▁c", "at", "▁cat", ".", "4", "▁cats", "<<ST_1>>", "é"]
    return Tokenizer.from_str(tokenizer_json(_vocabulary(*words)))


def test_merges_lead_to_the_longest_piece(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("cats", add_special_tokens=False).tokens == ["▁cats"]
    assert tokenizer.encode("cat cats", add_special_tokens=False).tokens == ["▁cat", "▁cats"]
    assert tokenizer.encode("act", add_special_tokens=False).tokens == ["▁", "a", "c", "t"]


def test_bytes_do_not_shadow_pieces(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("4.", add_special_tokens=False).ids
    assert all(index > 258 for index in ids)
    assert tokenizer.decode(ids) == "4."


@pytest.mark.parametrize("text", ["cats 4.", "zebra", "é è 東京 🎙", "a\ttab", ""])
def test_every_text_survives_encoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_special_pieces_neither_match_text_nor_appear_in_it(tokenizer: Tokenizer) -> None:
    ids = tokenizer.get_vocab()
    assert tokenizer.decode([1, ids["▁cat"], 2]) == "cat"
    assert tokenizer.decode([ids["▁cat"], ids["<<ST_1>>"]]) == "cat"


def test_a_piece_that_occurs_twice_keeps_its_first_id() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json(_vocabulary("▁", "a", "▁a", "▁a")))
    ids = tokenizer.encode("a", add_special_tokens=False).ids
    assert ids == [261]


def test_a_tokenizer_is_written_as_it_was_read(tmp_path: Path) -> None:
    pieces = _vocabulary("▁", "x", "▁x", "東京", "y" * 127, "z" * 128, "w" * 300, "v" * 32_767)
    tokenizer = Tokenizer.from_str(tokenizer_json(pieces))
    write_tokenizer_bin(tokenizer, tmp_path / "tokenizer.bin")
    assert (tmp_path / "tokenizer.bin").read_bytes() == _packed(pieces)
    longer = Tokenizer.from_str(tokenizer_json([*pieces, b"u" * 32_768]))
    with pytest.raises(RequestError, match=f"id {len(pieces)} is too long"):
        write_tokenizer_bin(longer, tmp_path / "longer.bin")
    assert not (tmp_path / "longer.bin").exists()
