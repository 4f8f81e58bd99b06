"""What a transcript may hold."""

import re

_SILENCE = re.compile(
    r"""["'\s]*(?:[<\[({#]*\s*(?:sil|sp|spn|nsn|lau|eps|silence|silent|pause|pau|noise|h\#|<eps>)
    \s*[>\])}#]*|\#+|_+|-+|\.+|)["'\s]*""",
    re.IGNORECASE | re.VERBOSE,
)


def is_silence_label(text: str) -> bool:
    """Whether a label marks a span without words, such as `sil`, `spn` or `<eps>`."""
    return _SILENCE.fullmatch(text) is not None
