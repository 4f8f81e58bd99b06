"""Walk the chunks of WAV, RF64, RIFX, W64, AIFF, CAF and AU: how much audio they state and hold.

libsndfile reads a file that lacks samples, or has more than its header states, without an error.
"""

import struct
import sys
from typing import BinaryIO, NamedTuple

# Unfinished streams have the length 0, -1, or the largest that fits in their header.
_OPEN_LENGTH = 0x7FFF_0000
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_READ_BYTES = 1 << 20
_AU_HEADER_BYTES = 24
# Tags that writers append behind the last chunk.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS", b"3DI", b"<?xml", b"<x:xmp")


class ChunkAudio(NamedTuple):
    """The audio chunk of one file.

    Attributes:
        stated, held: bytes of audio that the header states, and that are there.
        bytes_a_second: 0 where the header lacks it.
        end: offset behind the last chunk.
        unclaimed: bytes of further audio chunks; else bytes from there on that belong to no chunk
            and are neither tags nor zeros.
        fix: offset and bytes of the right length, where the header has 0.
    """

    stated: int
    held: int
    bytes_a_second: float
    end: int
    unclaimed: int = 0
    fix: tuple[int, bytes] | None = None

    def seconds(self, num_bytes: int) -> float:
        """Length of that many bytes of audio."""
        return num_bytes / self.bytes_a_second if self.bytes_a_second else 0.0


class _Container(NamedTuple):
    """How the chunks of a container are written.

    Attributes:
        first: offset of the first chunk.
        id_bytes, length_format: of a chunk's header, as for `struct`.
        length_has_header: whether a length counts the header.
        alignment: of the start of a chunk.
    """

    first: int
    id_bytes: int
    length_format: str
    length_has_header: bool
    alignment: int


_RIFF = _Container(12, 4, "<I", length_has_header=False, alignment=2)
_RIFX = _Container(12, 4, ">I", length_has_header=False, alignment=2)
_W64 = _Container(40, 16, "<Q", length_has_header=True, alignment=8)
_CAF = _Container(8, 4, ">Q", length_has_header=False, alignment=1)


def is_chunked(head: bytes) -> bool:
    """Whether a file that starts so (16 bytes) is one that `chunk_audio` reads."""
    return _container(head) is not None or head[:4] == b".snd"


def chunk_audio(file: BinaryIO, start: int, size: int) -> ChunkAudio | None:
    """The audio of the file that starts at an offset; None where it states no audio chunk.

    Args:
        size: of the whole file, bytes.
    """
    file.seek(start)
    head = file.read(40)
    if head[:4] == b".snd":
        return _au_audio(head, start, size) if len(head) >= _AU_HEADER_BYTES else None
    container = _container(head)
    if container is None:
        return None
    wide_length: int | None = None
    rate, second = 0.0, 0
    audio: tuple[int, int] | None = None
    position = start + container.first
    while (chunk := _chunk_at(file, position, container)) is not None:
        name, length, body = chunk
        if audio is not None and _container(name + bytes(12)):
            break  # the next file
        if name == b"ds64":
            wide_length = int.from_bytes(file.read(16)[8:16], "little")
        elif name in (b"fmt ", b"desc", b"COMM"):
            rate = _bytes_a_second(name, file.read(44), container)
        elif name in (b"data", b"SSND"):
            if name == b"data" and length == 0xFFFF_FFFF and wide_length is not None:
                length = wide_length
            if length == 0 and body < size and _chunk_at(file, body, container) is None:
                held = size - body
                return ChunkAudio(held, held, rate, size, fix=_length_field(body, held, container))
            is_open = wide_length is None and length >= _OPEN_LENGTH and body + length > size
            length = size - body if is_open else length
            held = min(length, size - body)
            # libsndfile reads the first chunk of audio alone.
            audio, second = (audio, second + held) if audio else ((length, held), 0)
            if body + length >= size:
                return ChunkAudio(*audio, rate, size, second)
        position = body + length
        padding = -length % container.alignment
        # Some writers leave the padding out.
        if padding and _chunk_at(file, position + padding, container) is not None:
            position += padding
    if audio is None:
        return None
    return _with_rest(file, ChunkAudio(*audio, rate, min(position, size), second), size)


def _length_field(body: int, length: int, container: _Container) -> tuple[int, bytes]:
    """Offset and content of the length of the chunk whose content starts at `body`."""
    width = struct.calcsize(container.length_format)
    if container.length_has_header:
        length += container.id_bytes + width
    largest = (1 << 8 * width) - 1
    return body - width, struct.pack(container.length_format, min(length, largest))


def _container(head: bytes) -> _Container | None:
    magic, form = head[:4], head[8:12]
    if magic in (b"RIFF", b"RF64", b"BW64") and form in (b"WAVE", bytes(4)):
        return _RIFF
    if magic in (b"RIFX", b"FORM") and form in (b"WAVE", b"AIFF", b"AIFC", bytes(4)):
        return _RIFX
    if magic == b"caff":
        return _CAF
    return _W64 if magic == _W64_RIFF[:4] else None


def _chunk_at(
    file: BinaryIO, position: int, container: _Container
) -> tuple[bytes, int, int] | None:
    """Name, length and offset of the content of the chunk at an offset, or None."""
    if position > sys.maxsize:
        return None  # of a length that no file has
    file.seek(position)
    width = struct.calcsize(container.length_format)
    header = file.read(container.id_bytes + width)
    if len(header) < container.id_bytes + width:
        return None
    name = header[:4]
    if not name.replace(b" ", b"").replace(b"_", b"").replace(b"-", b"").isalnum():
        return None
    length = struct.unpack_from(container.length_format, header, container.id_bytes)[0]
    if container.length_has_header:
        length = max(length - len(header), 0)
    return name, length, position + len(header)


def _bytes_a_second(name: bytes, body: bytes, container: _Container) -> float:
    """From the format chunk: WAV's and W64's `fmt `, AIFF's `COMM`, CAF's `desc`."""
    try:
        if name == b"fmt ":
            order = container.length_format[0]
            return float(struct.unpack_from(f"{order}I", body, 8)[0])
        if name == b"COMM":
            channels, _, bits, exponent, mantissa = struct.unpack_from(">hIhHQ", body)
            return float(channels * ((bits + 7) // 8) * mantissa * 2.0 ** (exponent - 16446))
        rate, _, _, packet_bytes, packet_frames = struct.unpack_from(">d4sIII", body)
        return float(rate * packet_bytes / packet_frames) if packet_frames else 0.0
    except (struct.error, OverflowError):
        return 0.0


def _au_audio(head: bytes, start: int, size: int) -> ChunkAudio | None:
    offset, length, encoding, rate, channels = struct.unpack_from(">5I", head, 4)
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    body = start + offset
    if length >= _OPEN_LENGTH or not length or body > size:
        return ChunkAudio(max(size - body, 0), max(size - body, 0), rate * channels * width, size)
    end = min(body + length, size)
    return ChunkAudio(length, end - body, rate * channels * width, end)


def _with_rest(file: BinaryIO, audio: ChunkAudio, size: int) -> ChunkAudio:
    """Count what follows the last chunk, unless it is a tag, zeros, or the next file."""
    if audio.unclaimed:
        return audio
    file.seek(audio.end)
    first = file.read(16)
    if not first or first.startswith(_TAGS) or is_chunked(first):
        return audio
    file.seek(audio.end)
    while block := file.read(_READ_BYTES):
        if block.strip(b"\0"):
            return ChunkAudio(
                audio.stated, audio.held, audio.bytes_a_second, audio.end, size - audio.end
            )
    return audio
