"""Progress of a job whose messages a test reads."""

from moonshine_tune.core.progress import SilentProgress


class Messages(SilentProgress):
    """Keeps the messages, in their order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
