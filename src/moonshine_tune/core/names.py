"""Names that become parts of paths: refused where a person chose them, mapped where data holds
them."""

import hashlib
import re
import unicodedata

MAX_NAME = 80
# Names of devices on Windows, whatever their ending: a folder with them cannot be copied there.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_RULE = "letters, digits and - _ . are allowed"


def name_problem(name: str) -> str | None:
    """Why a chosen name cannot be part of a path, as the end of a sentence; None where it can.

    Letters and digits of any script are allowed: they are safe in a path.
    """
    if not name:
        return "is empty"
    if wrong := [char for char in name if not (char.isalnum() or char in "-_.")]:
        return f"has {wrong[0]!r}: {_RULE}"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode's composed form (NFC), which file systems change"
    if name.startswith(".") or name.endswith("."):
        return "begins or ends with a dot"
    if len(name.encode()) > MAX_NAME:
        return f"has more than {MAX_NAME} bytes"
    if _DEVICE.fullmatch(name):
        return "is reserved for a device on Windows"
    return None


def path_name(text: str) -> str:
    """Any text as one part of a path; different texts give different names.

    A text that can be a name stays as it is. Any other one keeps what it can, and gets a hash.
    """
    # `~` marks mapped names: no name that stays as it is has it. File systems may ignore case.
    if name_problem(text) is None and text.isascii() and text == text.lower():
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    kept = re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:40].strip("-")
    return f"{kept or 'name'}~{digest}"
