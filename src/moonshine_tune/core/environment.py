"""Environment defaults that must be in place before torch is imported.

A variable that the user has set is never overwritten.
"""

import os

DEFAULTS: dict[str, tuple[str, str]] = {
    "PYTORCH_ENABLE_MPS_FALLBACK": ("1", "an operator that MPS lacks runs on the CPU"),
    # Beside another program a step of tiny took 0.6 to 1.8 s instead of 0.36, alone the same 0.16.
    "GOMP_SPINCOUNT": ("1000", "a thread that waits soon leaves its core to other programs"),
    "TOKENIZERS_PARALLELISM": ("false", "one process; silences the warning after a fork"),
    "HF_HUB_DISABLE_TELEMETRY": ("1", "nothing about you is sent anywhere"),
    "HF_HUB_DISABLE_PROGRESS_BARS": ("1", "progress is shown by moonshine-tune itself"),
    "HF_HUB_ETAG_TIMEOUT": ("5", "an unreachable hub costs seconds, not minutes"),
    "HF_HUB_DOWNLOAD_TIMEOUT": ("15", "a stalled download ends instead of hanging"),
    "TRANSFORMERS_VERBOSITY": ("error", "library chatter stays off the terminal"),
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": ("1", "library chatter stays off the terminal"),
}


def apply_environment_defaults() -> dict[str, str]:
    """Set each default that is missing; returns those that were set here."""
    applied = {}
    for name, (value, _reason) in DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = value
            applied[name] = value
    return applied
