"""The worker process of espeak-ng. Run as a script by `audio/tts.py`; standard library only.

espeak-ng has one global state per process: voice, rate, and the phases of its oscillators, which
no call resets, so an utterance changes the next one. Here a fork of a process that has never
spoken answers each request: the same request gives the same samples, whatever came before it, and
a crash affects no other utterance. A fork costs about 2 ms. Forking the program itself would be
unsafe (it holds threads of torch and of Apple's frameworks); this process has one thread and no
other libraries.

Requests are lines of JSON on stdin. Answers on stdout are `status, length` (two little-endian
32-bit integers) and `length` bytes: 16-bit samples or JSON for status 0, a message for status 1.
"""

import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Names and values of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8_TEXT = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_OK = 0
_SEED = 1
# Mode of phonemes: IPA, and the character between two of them.
_IPA = 0x02 | ord("_") << 8

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class _SpeechError(Exception):
    """espeak-ng refused a request."""


def _load(library_path: str, data_path: str) -> tuple[ctypes.CDLL, int]:
    """The initialized library and the sample rate of its speech."""
    library = ctypes.CDLL(library_path)
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    library.espeak_SetSynthCallback.argtypes = [_Callback]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    # espeak-ng has a short buffer for the path: a relative path fits wherever it is installed.
    data = Path(data_path)
    os.chdir(data.parent)
    rate = int(library.espeak_Initialize(_SYNCHRONOUS, 0, data.name.encode(), _DONT_EXIT))
    if rate <= 0:
        raise _SpeechError("espeak-ng cannot read its data")
    return library, rate


def _list_voices(library: ctypes.CDLL, language: bytes | None) -> list[_Voice]:
    wanted = ctypes.byref(_Voice(languages=language)) if language else None
    pointers = library.espeak_ListVoices(wanted)
    voices: list[_Voice] = []
    while pointers[len(voices)]:
        voices.append(pointers[len(voices)].contents)
    return voices


def _voices(library: ctypes.CDLL) -> dict[str, Any]:
    """Identifier by language name, and the names of the variants."""
    languages: dict[str, str] = {}
    for voice in _list_voices(library, None):
        # Each language is a priority byte and a name; the first is the voice's own.
        name = voice.languages[1:].decode("utf-8", "replace")
        languages.setdefault(name, voice.identifier.decode("utf-8", "replace"))
    variants = [
        voice.identifier.decode("utf-8", "replace").rpartition("/")[2]
        for voice in _list_voices(library, b"variant")
    ]
    return {"languages": languages, "variants": sorted(set(variants))}


def _speak(library: ctypes.CDLL, request: dict[str, Any]) -> bytes:
    """Little-endian 16-bit samples of one utterance."""
    pieces: list[bytes] = []

    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, count * 2))
        return 0

    # Without this, breath noise is seeded with the time of day.
    library.espeak_ng_SetRandSeed(_SEED)
    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != _OK:
        raise _SpeechError(f"espeak-ng refuses the voice {request['voice']}")
    for parameter, name in ((_RATE, "rate"), (_PITCH, "pitch"), (_RANGE, "range")):
        if library.espeak_SetParameter(parameter, request[name], 0) != _OK:
            raise _SpeechError(f"espeak-ng refuses a {name} of {request[name]}")
    text = request["text"].encode()
    if library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _UTF8_TEXT, None, None) != _OK:
        raise _SpeechError("espeak-ng cannot speak this text")
    library.espeak_Synchronize()
    return b"".join(pieces)


def _phonemes(library: ctypes.CDLL, request: dict[str, Any]) -> bytes:
    """IPA of each text, phonemes separated by `_`, as a JSON list."""
    if library.espeak_SetVoiceByName(request["voice"].encode()) != _OK:
        raise _SpeechError(f"espeak-ng refuses the voice {request['voice']}")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [
        ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    results = []
    for text in request["phonemes"]:
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        # It reads one clause at a time, and leaves NULL after the last one.
        while rest.value:
            spoken = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8_TEXT, _IPA)
            clauses.append((spoken or b"").decode("utf-8", "replace"))
        results.append(" ".join(clauses))
    return json.dumps(results).encode()


def _write(status: int, payload: bytes) -> None:
    rest = memoryview(struct.pack("<ii", status, len(payload)) + payload)
    while rest:
        rest = rest[os.write(1, rest) :]


def _answer(work: Callable[[], bytes]) -> None:
    try:
        payload = work()
    except Exception as error:
        _write(1, str(error).encode())
    else:
        _write(0, payload)


def _answer_in_fork(work: Callable[[], bytes]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _answer(work)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status != 0:
        _write(1, b"espeak-ng crashed on this text")


def main(library_path: str, data_path: str) -> None:
    """Answer requests until stdin ends. The first answer has rate and voices, or the error."""
    # The parent process handles Ctrl-C; stdin ends when it exits.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        library, rate = _load(library_path, data_path)
        voices = json.dumps({"rate_hz": rate, **_voices(library)}).encode()
    except Exception as error:
        _write(1, str(error).encode())
        return
    _write(0, voices)
    for line in sys.stdin.buffer:
        request: dict[str, Any] = json.loads(line)
        work = _phonemes if "phonemes" in request else _speak
        _answer_in_fork(lambda work=work, request=request: work(library, request))  # type: ignore[misc]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
