"""Environment defaults that must be set before torch is imported.

`import moonshine_tune` sets them. A variable that the user has set is never overwritten.
"""

import os
import sys

DEFAULTS: dict[str, tuple[str, str]] = {
    "PYTORCH_ENABLE_MPS_FALLBACK": ("1", "an operator that MPS lacks runs on the CPU"),
    # With another program on the machine, a step of tiny takes 0.36 s instead of 0.6 to 1.8 s.
    # Without one it takes 0.16 s either way.
    "GOMP_SPINCOUNT": ("1000", "waiting threads leave their cores to other programs sooner"),
    "TOKENIZERS_PARALLELISM": (
        "false",
        "no warning after a fork; tokenizing is a small part of the work",
    ),
    "HF_HUB_DISABLE_TELEMETRY": ("1", "no usage data leaves this machine"),
    # Without it, importing onnxruntime writes a device id below the user's cache, and sends events.
    "ORT_DISABLE_TELEMETRY": ("1", "no usage data leaves this machine"),
    # The convention of many libraries: a tracker or a plug-in that is installed honors it too.
    "DO_NOT_TRACK": ("1", "no usage data leaves this machine"),
    # Otherwise transformers may ask the hub, from a thread, to convert a model of another format.
    "DISABLE_SAFETENSORS_CONVERSION": ("1", "loading a model asks no server"),
    "HF_HUB_DISABLE_PROGRESS_BARS": ("1", "moonshine-tune shows the progress itself"),
    "HF_HUB_ETAG_TIMEOUT": ("5", "an unreachable hub costs seconds instead of minutes"),
    "HF_HUB_DOWNLOAD_TIMEOUT": ("15", "a stalled download fails instead of hanging"),
    "TRANSFORMERS_VERBOSITY": ("error", "fewer library messages on the terminal"),
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": ("1", "fewer library messages on the terminal"),
}


def apply_environment_defaults() -> dict[str, str]:
    """Set each default that is missing; returns the ones that this call set."""
    if _limits_file_size():
        # Python does not notice that a compiled module was cut off, and fails on it ever after.
        sys.dont_write_bytecode = True
    applied = {}
    for name, (value, _reason) in DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = value
            applied[name] = value
    return applied


def _limits_file_size() -> bool:
    """Whether the shell limits how large a file may become (`ulimit -f`)."""
    try:
        import resource
    except ImportError:
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
