"""How much audio a file holds, from its container: cut off, or several recordings joined.

libsndfile reads the first of several joined recordings (chained Ogg, `cat a.mp3 b.mp3`, a recorder
that was paused) and takes its length for the length of the file. Headers are read here, and no
audio is decoded.
"""

import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from moonshine_tune.audio.chunks import ChunkAudio, chunk_audio, is_chunked
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.text import quoted

# Encoders pad or trim a frame at the end.
LENGTH_SLACK_S = 0.1
_READ_BYTES = 1 << 20
_MAX_PARTS = 10_000
# FLAC files up to this size are searched for a second stream. Reading all of a larger one takes
# long on a network disk: its frames are looked at in some places.
_SEARCHED_BYTES = 1 << 20
_FLAC_WINDOWS = 8
_FLAC_WINDOW_BYTES = 1 << 15
# WebM, WMA, AMR; MP4 and its relatives have `ftyp` behind a length.
_FOREIGN_STARTS = (
    re.compile(rb"\x1a\x45\xdf\xa3[\x01-\xff]\x42[\x86\xf7\xf2\xf3\x82]|"
               rb"\x1a\x45\xdf\xa3\x01\x00{6}.\x42", re.DOTALL),
    re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
    re.compile(rb"#!AMR(?:-WB)?\n"),
)  # fmt: skip
_FOREIGN_ENDINGS = {".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp", ".opus", ".mov",
                    ".caf"}  # fmt: skip
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


class Extent(NamedTuple):
    """What a container says about its audio.

    Attributes:
        parts: first byte and end of each complete file in this one; a tag before the first is
            left out.
        seconds: length of the audio, where libsndfile only estimates it, or None.
        is_mp3: MPEG audio without a container.
        is_foreign: libsndfile cannot read this format.
        fixes: offset and bytes that must be written over a header, so that its length is right.
    """

    parts: tuple[tuple[int, int], ...]
    seconds: float | None = None
    is_mp3: bool = False
    is_foreign: bool = False
    fixes: tuple[tuple[int, bytes], ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the file is one recording from its first byte, with a header to read it by."""
        return len(self.parts) == 1 and self.parts[0][0] == 0 and not self.fixes


@lru_cache(maxsize=16_384)
def extent_of(path: Path, size: int, mtime_ns: int) -> Extent:
    """The extent of a recording; the latest ones are cached.

    Args:
        size, mtime_ns: of the file, as `os.stat` states them.

    Raises:
        AudioError: fewer or more samples than the header states.
        OSError: the file cannot be read.
    """
    # Not buffered: most reads are far apart, and each would fill a buffer.
    with path.open("rb", buffering=0) as file:
        head = file.read(16)
        start = _behind_tags(file, 0, size) if head[:3] == b"ID3" else 0
        if start:
            file.seek(start)
            head = file.read(16)
        if head[:4] == b"fLaC":
            return _flac_extent(file, start, size, path)
        if is_chunked(head):
            return _chunked_extent(file, start, size, path)
        if head[:4] == b"OggS":
            return Extent(_ogg_parts(file, start, size, path))
        if head[4:8] == b"ftyp":
            return Extent(_mp4_parts(file, start, size), is_foreign=True)
        for start_of_file in _FOREIGN_STARTS:
            if start_of_file.match(head):
                if head[:1] == b"\x30":
                    _check_asf(file, start, size, path)
                return Extent(_searched_parts(file, start, size, start_of_file), is_foreign=True)
        if path.suffix.lower() in _FOREIGN_ENDINGS:
            return Extent(((0, size),), is_foreign=True)
        if _mp3_frame(head) is not None:
            return _mp3_extent(file, start, size)
    return Extent(((0, size),))


def _mp4_parts(file: BinaryIO, start: int, size: int) -> tuple[tuple[int, int], ...]:
    """Each `ftyp` among the outermost boxes begins a recording."""
    starts: list[int] = []
    position = start
    while position + 8 <= size and len(starts) < _MAX_PARTS:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if head[4:8] == b"ftyp":
            starts.append(position)
        if length < 8:
            break  # the last box, or no box
        position += length
    return _ranges(starts, size)


def _ranges(starts: list[int], size: int) -> tuple[tuple[int, int], ...]:
    return tuple(zip(starts, [*starts[1:], size], strict=True))


def _searched_parts(
    file: BinaryIO, start: int, size: int, start_of_file: re.Pattern[bytes]
) -> tuple[tuple[int, int], ...]:
    """Each match (16 bytes at most) begins a recording."""
    starts, position, rest = [start], start, b""
    file.seek(start)
    while block := file.read(_READ_BYTES):
        searched = rest + block
        offset = position - len(rest)
        starts += [offset + match.start() for match in start_of_file.finditer(searched)]
        rest = searched[-15:]
        position += len(block)
    return _ranges(sorted(set(starts))[:_MAX_PARTS], size)


def _behind_tags(file: BinaryIO, position: int, size: int) -> int:
    """Skip ID3, APE and Lyrics3 tags and zeros; the offset of what follows, `size` at most."""
    while position < size:
        file.seek(position)
        head = file.read(32)
        if head[:3] == b"ID3" and len(head) >= 10:
            length = 0
            for byte in head[6:10]:
                length = length * 128 + (byte & 127)
            position += 10 + length + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG" and size - position >= 128:
            position += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            # The length counts the footer; a tag at the end of a file may lack the header.
            position += struct.unpack_from("<I", head, 12)[0] + (32 if head[23] & 0x20 else 0)
        elif head[:11] == b"LYRICSBEGIN":
            file.seek(position)
            end = file.read(_READ_BYTES).find(b"LYRICS200")
            position = size if end < 0 else position + end + 9
        elif position and not head.strip(b"\0"):
            position = _behind_zeros(file, position, size)
        else:
            break
    return min(position, size)


def _behind_zeros(file: BinaryIO, position: int, size: int) -> int:
    file.seek(position)
    while block := file.read(_READ_BYTES):
        content = block.lstrip(b"\0")
        if content:
            return position + len(block) - len(content)
        position += len(block)
    return size


def cut_off(path: Path, message: str) -> AudioError:
    """The error for a recording that lacks its end."""
    return AudioError(
        f"cut off: {message}",
        where=path,
        hint="copy it again from its source, or remove it from the manifest",
    )


def _chunked_extent(file: BinaryIO, start: int, size: int, path: Path) -> Extent:
    parts: list[tuple[int, int]] = []
    fixes: list[tuple[int, bytes]] = []
    while len(parts) < _MAX_PARTS:
        audio = chunk_audio(file, start, size)
        if audio is None:
            break
        _check_chunk(audio, path)
        if audio.fix is not None:
            fixes.append(audio.fix)
        file.seek(audio.end)
        if audio.end >= size or not is_chunked(file.read(16)):
            break
        parts.append((start, audio.end))
        start = audio.end
    return Extent((*parts, (start, size)), fixes=tuple(fixes))


def _check_chunk(audio: ChunkAudio, path: Path) -> None:
    missing, unclaimed = audio.seconds(audio.stated - audio.held), audio.seconds(audio.unclaimed)
    if missing > LENGTH_SLACK_S:
        held, stated = audio.seconds(audio.held), audio.seconds(audio.stated)
        raise cut_off(path, f"{held:.2f} of {stated:.2f} s are there")
    if unclaimed > LENGTH_SLACK_S:
        stated = audio.seconds(audio.stated)
        raise AudioError(
            f"its header states {stated:.2f} s, and {unclaimed:.2f} s of data follow: either its "
            "header was not finished, or they are no audio",
            where=path,
            hint="write what the header states with: "
            f"ffmpeg -i {quoted(path)} NEW.wav (WAV: with -ignore_length 1 all of it)",
        )


def _ogg_parts(file: BinaryIO, start: int, size: int, path: Path) -> tuple[tuple[int, int], ...]:
    """A stream that begins behind the pages of others is a new recording (a chained file)."""
    starts: list[int] = [start]
    position, has_audio = start, False
    while position + 27 <= size and len(starts) < _MAX_PARTS:
        file.seek(position)
        header = file.read(27 + 255)
        if header[:4] != b"OggS":
            position = _next_page(file, position, size)
            continue
        num_segments = header[26]
        if header[5] & 2 and has_audio:
            starts.append(position)
        has_audio = not header[5] & 2
        position += 27 + num_segments + sum(header[27 : 27 + num_segments])
    if position > size:
        raise cut_off(path, f"{position - size:,} bytes of its last page are missing")
    return _ranges(starts, size)


def _next_page(file: BinaryIO, position: int, size: int) -> int:
    """The offset of the next page behind bytes that are none."""
    file.seek(position)
    while block := file.read(_READ_BYTES):
        offset = block.find(b"OggS")
        if offset >= 0:
            return position + offset
        if len(block) < _READ_BYTES:
            break
        position += len(block) - 3
        file.seek(position)
    return size


def _check_asf(file: BinaryIO, start: int, size: int, path: Path) -> None:
    """Refuse WMA that is shorter than it states, unless it is a broadcast."""
    file.seek(start)
    head = file.read(1 << 16)
    position = head.find(_ASF_PROPERTIES)
    if position < 0 or len(head) < position + 92:
        return
    stated = int.from_bytes(head[position + 40 : position + 48], "little")
    is_broadcast = head[position + 88] & 1
    if not is_broadcast and stated > size - start:
        raise cut_off(path, f"{stated - (size - start):,} of {stated:,} bytes are missing")


def _flac_extent(file: BinaryIO, start: int, size: int, path: Path) -> Extent:
    """Each `fLaC` with a stream header begins a recording.

    Of a single one, the last frame says how long it is: libsndfile stops at the length of the
    header, and takes it for the length of a file that was cut off.
    """
    file.seek(start)
    if size - start <= _SEARCHED_BYTES:
        content = file.read(size - start)
        is_one = _FLAC_START.search(content, 4) is None
        head, tail = content[:42], content
    else:
        is_one = _is_one_flac_stream(file, start, size)
        file.seek(start)
        head = file.read(42)
        file.seek(size - _FLAC_WINDOW_BYTES)
        tail = file.read(_FLAC_WINDOW_BYTES)
    if not is_one:
        return Extent(_searched_parts(file, start, size, _FLAC_START))
    stated = int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF
    rate = int.from_bytes(head[18:21], "big") >> 4
    held = _flac_samples(head, tail) if stated and rate else None
    if held is not None and held < stated - LENGTH_SLACK_S * rate:
        raise cut_off(path, f"{held / rate:.2f} of {stated / rate:.2f} s are there")
    if held is not None and held > stated + LENGTH_SLACK_S * rate:
        length = (head[21] >> 4 << 36 | held).to_bytes(5, "big")
        return Extent(((start, size),), fixes=((start + 21, length),))
    return Extent(((start, size),))


def _flac_samples(head: bytes, tail: bytes) -> int | None:
    """Samples up to the end of the last frame, or None where the two last do not say so.

    Args:
        head: the first 42 bytes of the stream.
        tail: its last bytes.
    """
    block_size = int.from_bytes(head[8:10], "big")
    if block_size != int.from_bytes(head[10:12], "big"):
        return None  # frames count samples where their sizes vary
    frames: list[tuple[int, int]] = []
    position, first = len(tail), max(len(tail) - _FLAC_WINDOW_BYTES, 0)
    while len(frames) < 2 and (position := tail.rfind(b"\xff\xf8", first, position)) >= 0:
        if (frame := _flac_frame_at(tail, position)) is not None:
            frames.append(frame)
    if not frames:
        return None
    number, samples = frames[0]
    # Other bytes look like a frame now and then, but not like the one before it, too.
    if [before for before, _ in frames[1:]] != ([number - 1] if number else []):
        return None
    return number * block_size + (samples or block_size)


def _is_one_flac_stream(file: BinaryIO, start: int, size: int) -> bool:
    """Whether frame numbers grow along the file, and the last is that of the header."""
    file.seek(start)
    head = file.read(42)
    total = int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF
    block_size = int.from_bytes(head[8:10], "big")
    if not total or block_size != int.from_bytes(head[10:12], "big"):
        return False  # open length, or blocks of several sizes: frames have no common number
    last = -1
    # Unequal steps: parts of the same length must not be met at the same place each.
    for share in (*((step / _FLAC_WINDOWS) ** 1.3 for step in range(1, _FLAC_WINDOWS)), 1.0):
        position = max(start + int((size - start) * share) - _FLAC_WINDOW_BYTES, start)
        file.seek(position)
        numbers = _flac_frame_numbers(file.read(_FLAC_WINDOW_BYTES))
        if not numbers or numbers != sorted(numbers) or numbers[0] < last:
            return False
        last = numbers[-1]
    return last == (total - 1) // block_size


_FLAC_FRAME = re.compile(rb"\xff\xf8[\x10-\xef][\x00-\xaf]")


def _flac_frame_numbers(block: bytes) -> list[int]:
    """Numbers of the frames that begin in a block of bytes, in its order."""
    return [number for number, _ in _flac_frames(block)]


def _flac_frames(block: bytes) -> list[tuple[int, int]]:
    """Number and samples of the frames that begin in a block of bytes, in its order."""
    frames = (_flac_frame_at(block, match.start()) for match in _FLAC_FRAME.finditer(block))
    return [frame for frame in frames if frame is not None]


def _flac_frame_at(block: bytes, offset: int) -> tuple[int, int] | None:
    """Number and samples of the frame whose header is at an offset, or None."""
    header = block[offset : offset + 16]
    coded = _utf8_number(header[4:])
    if coded is None:
        return None
    number, width = coded
    size_code, rate_code = header[2] >> 4, header[2] & 15
    end = 4 + width + (size_code - 5 if size_code in (6, 7) else 0)
    length = end + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(header) <= length or _crc8(header[:length]) != header[length]:
        return None
    written = int.from_bytes(header[4 + width : end], "big") + 1
    return number, written if size_code in (6, 7) else _FLAC_SIZES[size_code]


# Samples of a frame by the code in its header; 6 and 7 write them out.
_FLAC_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << power for power in range(8)))


def _utf8_number(data: bytes) -> tuple[int, int] | None:
    """A number as FLAC codes it (UTF-8 up to 7 bytes), and its width in bytes."""
    if not data:
        return None
    first = data[0]
    if first < 0x80:
        return first, 1
    width = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= width <= 7 or len(data) < width:
        return None
    number = first & (0x7F >> width)
    for byte in data[1:width]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    return number, width


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ 0x07) & 0xFF if byte & 0x80 else byte << 1
    return byte


_CRC8 = tuple(map(_crc8_of, range(256)))


def _crc8(data: bytes) -> int:
    """FLAC's check sum of a frame header: polynomial 0x07."""
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


class _Mp3Frame(NamedTuple):
    length: int
    samples: int
    rate: int
    side_bytes: int


# Bit rates in kbit/s of MPEG 1 and of MPEG 2 and 2.5, layer III; sample rates by version.
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _mp3_frame(header: bytes) -> _Mp3Frame | None:
    """The layer III frame with this header (4 bytes), or None."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    return _mp3_frame_of(header[1], header[2], header[3] >> 6 == 3)


@lru_cache(maxsize=4096)
def _mp3_frame_of(second: int, third: int, is_mono: bool) -> _Mp3Frame | None:
    version, bits, rate_index = second >> 3 & 3, third >> 4, third >> 2 & 3
    if version == 1 or bits in (0, 15) or rate_index == 3:
        return None
    rate, samples = _MP3_RATES[version][rate_index], 1152 if version == 3 else 576
    kbits = (_KBITS_1 if version == 3 else _KBITS_2)[bits]
    side = (17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)
    return _Mp3Frame(samples // 8 * kbits * 1000 // rate + (third >> 1 & 1), samples, rate, side)


def _mp3_extent(file: BinaryIO, start: int, size: int) -> Extent:
    """A tag or a table of contents between frames begins a new recording.

    A table of contents states the bytes of its recording, so its frames are not visited.
    """
    parts: list[tuple[int, int]] = []
    seconds: float | None = 0.0
    while start < size and len(parts) < _MAX_PARTS:
        file.seek(start)
        head = file.read(256)
        frame = _mp3_frame(head)
        if frame is None:
            break
        stated = _mp3_table(head, frame)
        if stated is None:
            end, length = _visit_mp3_frames(file, start, size)
            seconds = None if seconds is None else seconds + length
        else:
            end, seconds = min(start + stated, size), None
        parts.append((start, end))
        following = _behind_tags(file, end, size)
        start = _mp3_resume(file, following, size)
    if not parts:
        return Extent(((0, size),))
    if len(parts) > 1:
        return Extent(tuple(parts), is_mp3=True)
    return Extent(((0, size),), seconds, is_mp3=True)  # libsndfile skips tags before frames


def _mp3_table(head: bytes, frame: _Mp3Frame) -> int | None:
    """Bytes of the recording, from the table of contents in its first frame; None without one."""
    xing, vbri = head[4 + frame.side_bytes :], head[36:]
    if xing[:4] in (b"Xing", b"Info") and xing[7] & 3 == 3:
        length = int.from_bytes(xing[12:16], "big")
    elif vbri[:4] == b"VBRI":
        length = int.from_bytes(vbri[10:14], "big")
    else:
        return None
    return length if length > frame.length else None


def _visit_mp3_frames(file: BinaryIO, start: int, size: int) -> tuple[int, float]:
    """The offset behind the last frame of a row of frames, and their length in seconds."""
    file.seek(start)
    block, base, position, seconds = file.read(_READ_BYTES), start, start, 0.0
    while position < size:
        offset = position - base
        if offset + 4 > len(block):
            file.seek(position)
            block, base, offset = file.read(_READ_BYTES), position, 0
        frame = _mp3_frame(block[offset : offset + 4])
        if frame is None:
            break
        position += frame.length
        seconds += frame.samples / frame.rate
    return min(position, size), seconds


def _mp3_resume(file: BinaryIO, position: int, size: int) -> int:
    """Where frames go on behind a few bytes that are none; `size` if they do not."""
    file.seek(position)
    block = file.read(1 << 16)
    for match in re.finditer(rb"\xff[\xe2-\xff]", block):
        frame = _mp3_frame(block[match.start() : match.start() + 4])
        if frame is not None:
            follower = match.start() + frame.length
            following = _mp3_frame(block[follower : follower + 4])
            if following is not None and following.rate == frame.rate:
                return position + match.start()
    return size
