"""Aliases in a transcript, mapped back to their terms, with the times of its words."""

from collections.abc import Mapping
from dataclasses import replace

from moonshine_tune.corpus.aliases.apply_aliases import apply_aliases, replacements
from moonshine_tune.inference.timed_text import TimedText, TimedWord


def with_aliases(transcript: TimedText, aliases: Mapping[str, str]) -> TimedText:
    """The transcript with each alias replaced; the words of an alias become one word.

    It lasts from the first to the last of them, with their mean confidence.
    """
    text = apply_aliases(transcript.text, aliases)
    if text == transcript.text:
        return transcript
    joined = " ".join(word.text for word in transcript.words)
    words: list[TimedWord] = []
    waiting = list(replacements(joined, aliases))
    position = index = 0
    while index < len(transcript.words):
        word = transcript.words[index]
        end = position + len(word.text)
        index += 1
        if waiting and waiting[0][0] < end:
            merged = [word]
            shown, offset = "", position
            # A word of its own may hold several aliases, joined by hyphens.
            while waiting and waiting[0][0] < end:
                first, last, term = waiting.pop(0)
                while end < last:
                    merged.append(transcript.words[index])
                    end += 1 + len(merged[-1].text)
                    index += 1
                shown, offset = shown + joined[offset:first] + term, last
            confidence = sum(item.confidence for item in merged) / len(merged)
            shown += joined[offset:end]
            word = TimedWord(shown, word.start, merged[-1].end, confidence)
        words.append(word)
        position = end + 1
    return replace(transcript, text=text, words=tuple(words))
