"""Writing the runtime's `tokenizer.bin` from a checkpoint's tokenizer, and comparing the two."""

import re
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.runtime.tokenizer import read_pieces

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST = 128 * 256 - 1


def pieces_of(tokenizer: Any) -> list[bytes]:
    """The pieces of a `tokenizers.Tokenizer` in the order of their ids; bytes stand for themselves.

    Raises:
        RequestError: an id below the vocabulary's size has no piece.
    """
    pieces: list[bytes] = []
    for index in range(tokenizer.get_vocab_size()):
        word = tokenizer.id_to_token(index)
        if word is None:
            raise RequestError(f"the tokenizer has no piece of id {index}")
        byte = _BYTE.fullmatch(word)
        pieces.append(bytes([int(byte[1], 16)]) if byte else word.encode("utf-8"))
    return pieces


def write_tokenizer_bin(tokenizer: Any, path: Path) -> None:
    """Write a tokenizer as `tokenizer.bin`.

    Raises:
        RequestError: a piece is too long for the format.
    """
    data = bytearray()
    for index, piece in enumerate(pieces_of(tokenizer)):
        if len(piece) > _LONGEST:
            raise RequestError(f"the piece of id {index} is too long for tokenizer.bin")
        if len(piece) < 128:
            data.append(len(piece))
        else:
            data += bytes([len(piece) % 128 + 128, len(piece) // 128])
        data += piece
    write_bytes_atomic(path, bytes(data))


def tokenizer_difference(path: Path, tokenizer: Any) -> str | None:
    """Where a `tokenizer.bin` differs from a checkpoint's tokenizer, in words; None where nowhere.

    Raises:
        RequestError: the file is missing or cut off.
    """
    stored, expected = read_pieces(path), pieces_of(tokenizer)
    if len(stored) != len(expected):
        return f"{path.name} has {len(stored)} pieces, the model's tokenizer {len(expected)}"
    different = [
        i for i, pair in enumerate(zip(stored, expected, strict=True)) if pair[0] != pair[1]
    ]
    if not different:
        return None
    first = different[0]
    return (
        f"{path.name} differs from the model's tokenizer in {len(different)} pieces, first in id "
        f"{first}: {_shown(stored[first])} instead of {_shown(expected[first])}"
    )


def _shown(piece: bytes) -> str:
    return repr(piece.decode("utf-8", errors="replace"))
