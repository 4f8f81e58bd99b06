"""What is spoken: texts with the forms in which they are spoken."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moonshine_tune.corpus.spoken_lines import SpokenLine


@dataclass(frozen=True)
class Prompt:
    """One text to synthesize.

    Attributes:
        text: the transcript.
        spoken: what the synthesizer speaks; empty where it is the text.
        terms: the listed terms that it is there for.
    """

    text: str
    spoken: str = ""
    terms: tuple[str, ...] = ()

    @property
    def spoken_text(self) -> str:
        """What the synthesizer speaks."""
        return self.spoken or self.text


class Pronunciations:
    """The spoken forms of words and phrases; the longest comes first."""

    def __init__(self, lines: Sequence[SpokenLine]) -> None:
        # Of several forms of a term the first one: the others are spoken in sentences of their own.
        forms = {item.text.casefold(): item.spoken for item in reversed(lines) if item.spoken}
        self._forms = forms
        words = sorted(map(re.escape, forms), key=len, reverse=True)
        joined = "|".join(words)
        self._pattern = re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE) if words else None

    def spoken(self, text: str) -> str:
        """The text with every listed word in its spoken form."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._forms[match[0].casefold()], text)

    def apply(self, prompt: Prompt) -> Prompt:
        """The prompt in its spoken form; its text stays."""
        spoken = self.spoken(prompt.spoken_text)
        return prompt if spoken == prompt.spoken_text else replace(prompt, spoken=spoken)
