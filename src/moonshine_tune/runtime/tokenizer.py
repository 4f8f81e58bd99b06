"""The runtime's `tokenizer.bin`: reading, writing, and a `tokenizers` tokenizer made from it.

Format: for each id a length (one byte, or from 128 on two: low 7 bits + 128, then the rest ÷ 128)
and that many bytes. Ids 3–258 are raw single bytes; they become `<0x00>` … `<0xFF>`, since their
plain spelling would shadow real pieces such as "." and "4".
"""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_bytes_atomic

_SPECIAL = ("<unk>", "<s>", "</s>")
"""The first pieces, by id; then come the bytes."""
_FIRST_BYTE_ID = len(_SPECIAL)
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST = 128 * 256 - 1


def read_pieces(path: Path) -> list[bytes]:
    """The raw pieces of a `tokenizer.bin`, in the order of their ids.

    Raises:
        RequestError: the file is missing or cut off.
    """
    if not path.is_file():
        raise RequestError("no tokenizer.bin in the runtime folder", where=path)
    data = path.read_bytes()
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        length = data[position]
        position += 1
        if length >= 128:
            if position >= len(data):
                raise RequestError("tokenizer.bin is cut off", where=path)
            length = length - 128 + data[position] * 128
            position += 1
        if position + length > len(data):
            raise RequestError("tokenizer.bin is cut off", where=path)
        pieces.append(data[position : position + length])
        position += length
    return pieces


def write_tokenizer_bin(tokenizer: Any, path: Path) -> None:
    """Write a `tokenizers.Tokenizer` as `tokenizer.bin`.

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


def pieces_of(tokenizer: Any) -> list[bytes]:
    """The pieces of a `tokenizers.Tokenizer` in the order of their ids; `<0x41>` is the byte A.

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


def tokenizer_difference(path: Path, tokenizer: Any) -> str | None:
    """How a `tokenizer.bin` differs from a checkpoint's tokenizer; None where it does not.

    Raises:
        RequestError: the file is missing or cut off.
    """
    stored, expected = read_pieces(path), pieces_of(tokenizer)
    if len(stored) != len(expected):
        return f"{path.name} has {len(stored)} pieces, the model's tokenizer {len(expected)}"
    different = [i for i, piece in enumerate(stored) if piece != expected[i]]
    if not different:
        return None
    first = different[0]
    ours, theirs = (repr(pieces[first].decode("utf-8", "replace")) for pieces in (stored, expected))
    return (
        f"{path.name} differs from the model's tokenizer in {len(different)} pieces, first in id "
        f"{first}: {ours} instead of {theirs}"
    )


def tokenizer_json(pieces: list[bytes]) -> str:
    """A `tokenizer.json` (BPE with byte fallback) that spells every piece as the runtime does."""
    words = [_spell(index, piece) for index, piece in enumerate(pieces)]
    ids: dict[str, int] = {}
    for index, word in enumerate(words):
        # A piece may occur twice; merges lead to the first id.
        ids.setdefault(word, index)
    added = [
        {"id": index, "content": word, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for index, word in enumerate(words)
        if index < len(_SPECIAL) or (word.startswith("<<") and word.endswith(">>"))
    ]  # fmt: skip
    document = checkpoint_file("tokenizer") | {"added_tokens": added}
    document["model"] |= {"vocab": ids, "merges": _merges(words, ids)}
    return json.dumps(document, ensure_ascii=False)


def checkpoint_file(name: str) -> dict[str, Any]:
    """A JSON file of every rebuilt checkpoint; null stands where the weights decide."""
    file = resources.files("moonshine_tune.runtime") / "checkpoint_files" / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _spell(index: int, piece: bytes) -> str:
    if index < len(_SPECIAL):
        return _SPECIAL[index]
    if _FIRST_BYTE_ID <= index < _FIRST_BYTE_ID + 256 and len(piece) == 1:
        return f"<0x{piece[0]:02X}>"
    return piece.decode("utf-8", errors="surrogateescape").encode("utf-8", "replace").decode()


def _merges(words: list[str], ids: dict[str, int]) -> list[list[str]]:
    """All splits of each piece into two pieces, in the order of the ids of the merged piece."""
    merges: list[list[str]] = []
    for index, word in enumerate(words):
        if index < len(_SPECIAL) or word.startswith(("<0x", "<<")) or ids[word] != index:
            continue
        splits = [
            [word[:cut], word[cut:]]
            for cut in range(1, len(word))
            if word[:cut] in ids and word[cut:] in ids
        ]
        merges.extend(sorted(splits, key=lambda pair: (ids[pair[0]], ids[pair[1]])))
    return merges
