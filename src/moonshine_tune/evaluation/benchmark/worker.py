"""The process whose load time, latency and memory are measured: `python -m` this module.

It is as close to an application as Python allows: it imports moonshine-voice and the standard
library, neither torch nor numpy nor onnxruntime. (Reading an `.ort` file here would add 230 MB to
the measured memory, so the parent names the architecture of the folder.)

Protocol, one JSON object per line. Argument: `{"folder","arch","options","keyterms"}`. First
answer: `{"ready","load_s","process_mb","loaded_mb"}`. Then, for each line on stdin:
`{"do":"clip","path","sample_rate_hz"}` → `{"seconds","text"}`;
`{"do":"stream","path","sample_rate_hz","chunk_s"}` → `{"seconds","text"}`, fed at the pace of
speech, seconds from the end of speech to the final text;
`{"do":"memory"}` → `{"peak_mb"}`.
Any failure answers `{"error"}`. Clips are files of float32 samples, mono.
"""

import array
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_MB = 1_000_000


def main() -> None:
    """Load the folder, then answer requests until stdin ends."""
    answers = _own_stdout()
    request = json.loads(sys.argv[1])
    try:
        from moonshine_voice import ModelArch, Transcriber

        process_mb = peak_mb()
        start_time = time.perf_counter()
        transcriber = Transcriber(
            request["folder"], getattr(ModelArch, request["arch"]), options=request["options"]
        )
        load_s = time.perf_counter() - start_time
        if request.get("keyterms"):
            transcriber.set_keyterms(request["keyterms"])
    except Exception as error:
        # A native library is called: whatever it raises is the answer.
        _answer(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    _answer(
        answers,
        {"ready": True, "load_s": load_s, "process_mb": process_mb, "loaded_mb": peak_mb()},
    )
    for line in sys.stdin:
        try:
            answer = _do(transcriber, json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        _answer(answers, answer)
    transcriber.close()


def peak_mb() -> float:
    """Peak memory of this process, in MB of 10^6 bytes.

    On Linux the figure of getrusage survives fork and exec, so that a child of a large process
    looks as large; VmHWM is reset by each exec (proc(5)).
    """
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / _MB
    except OSError:
        pass  # Not Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MB if sys.platform == "darwin" else peak * 1024 / _MB


def _own_stdout() -> TextIO:
    """The real stdout for answers only; the output of native libraries goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, record: dict[str, Any]) -> None:
    answers.write(json.dumps(record, ensure_ascii=False) + "\n")
    answers.flush()


def _do(transcriber: Any, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "memory":
        return {"peak_mb": peak_mb()}
    samples = array.array("f")
    samples.frombytes(Path(request["path"]).read_bytes())
    if request["do"] == "stream":
        return _stream(transcriber, samples.tolist(), request)
    clip = samples.tolist()
    start_time = time.perf_counter()
    transcript = transcriber.transcribe_without_streaming(clip, request["sample_rate_hz"])
    seconds = time.perf_counter() - start_time
    return {"seconds": seconds, "text": _text(transcript)}


def _stream(transcriber: Any, clip: list[float], request: dict[str, Any]) -> dict[str, Any]:
    """Feed the clip as a microphone would: each chunk when its last sample was spoken."""
    rate_hz = request["sample_rate_hz"]
    size = max(round(request["chunk_s"] * rate_hz), 1)
    stream = transcriber.create_stream()
    try:
        stream.start()
        start_time = time.perf_counter()
        for first in range(0, len(clip), size):
            chunk = clip[first : first + size]
            spoken = start_time + (first + len(chunk)) / rate_hz
            time.sleep(max(spoken - time.perf_counter(), 0.0))
            stream.add_audio(chunk, rate_hz)
        transcript = stream.stop()
        # From the end of speech, not from the last call: this shows a model that is too slow.
        seconds = time.perf_counter() - start_time - len(clip) / rate_hz
    finally:
        stream.close()
    if transcript is None:
        return {"error": "the stream gave no final transcript"}
    return {"seconds": seconds, "text": _text(transcript)}


def _text(transcript: Any) -> str:
    return " ".join(line.text.strip() for line in transcript.lines).strip()


if __name__ == "__main__":
    main()
