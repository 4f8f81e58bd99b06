"""The field's words, held by two lists: identifiers and phrases that are not used.

A stranger should not have to learn a private vocabulary to read the code or the documentation. The
lists name words that this project used once, with what to write instead.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.documentation import DOCS, ROOT, pages

import moonshine_tune

_SRC = Path(moonshine_tune.__file__).parent

# Identifiers that are exactly this, with what to write instead.
_IDENTIFIERS = {
    "found": "result, matches, candidates",
    "place": "path, index, position",
    "begun": "start_time",
    "one": "what it is",
    "other": "what it is",
    "whole": "what it is",
    "chance": "probability, or rng for a generator",
    "see": "report_finding",
    "See": "a callback named after its event",
    "listen": "transcribe, forward_hook",
    "hearing": "augmented_dataset",
    "pull": "kl_weight, kl_loss",
    "prints": "fingerprints",
    "Holdout": "ScoredSet",
    "Board": "TensorBoardLogger",
    "LiveBoard": "LiveView",
    "put_in_front": "patch_forward",
    "in_front": "patching",
    "Turns": "RotaryTables",
    "Processes": "Distributed",
    "is_main": "is_rank_zero",
    "StopRequest": "GracefulInterrupt",
    "see_doubtful": "flag_suspicious_transcripts",
    "each_that_fits": "run_with_oom_backoff",
    "takes_lists": "supports_foreach",
    "updates_at_once": "supports_fused",
    "takes_complex": "supports_complex",
    "in_few_sizes": "round_up_to_bucket",
    "keep_heap_tight": "return_freed_memory_to_os",
    "SoundBank": "NoiseBank",
    "Material": "ReportInput",
    "ClipBox": "EmbeddedClip",
    "Arm": "Variant",
    "Heard": "what it is",
}
# Modules and packages.
_MODULES = {
    "stack": "dependencies", "machine": "hardware", "stand_in": "random_model",
    "format_record": "precision", "hearing": "augmentation", "board": "loggers",
    "jobs": "the package of that command", "in_front": "override", "adapted_linear": "lora_linear",
}  # fmt: skip
# Parts of an identifier between underscores.
_PARTS = {
    "heard": "hypothesis, transcript",
    "said": "reference, teacher_tokens",
    "told": "reported, message, summary",
    "mend": "fix",
}
# Phrases of prose, in any case, with what to write instead.
_PHRASES = {
    r"(is|are) talk\b": "progress and messages go to stderr",
    r"paid for with everything else": "accuracy on general speech stays the same",
    r"can this machine train, and how": "check whether this machine can train",
    r"leaks found": "detects leakage",
    r"decoded as deployed": "decodes as the deployed runtime does",
    r"\bin turns?\b": "alternating, interleaved, one after the other",
    r"take turns": "alternate",
    r"the losers?\b": "preserves worst",
    r"without a creep": "memory stays flat",
    r"all the same\b": "still, nevertheless",
    r"thinks of itself": "diagnostics",
    r"\bflatters?\b": "is optimistic",
    r"follows? from the seed": "deterministic for a given seed",
    r"steer(s|ed)? the rounding": "calibration clips for quantization",
    r"\b(is|are|be|been) stood\b": "stays within bounds",
    r"cannot be spoken": "cannot synthesize",
    r"there is something already": "the output path exists",
    r"cannot be drawn": "cannot generate",
    r"that (is|are) no utterance": "invalid manifest lines",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"without a word\b": "without a result",
    r"heard of any more": "no heartbeat",
    r"at most so many": "maximum number of",
    r"(is|are) fed so\b": "streamed",
    r"let all see": "make public",
    r"without being told": "detected automatically",
    r"\(asked\b": "(required",
    r"\bhears?\b": "transcribes, receives",
    r"\bheard\b": "transcribed, used in training",
    r"\b(was|were|is|are|be|been) told\b": "reports, passes",
    r"\bby heart\b": "memorized",
    r"\bwhat (it|they) (is|are) worth\b": "quality",
}
# Code, and the anchors of pages.
_QUOTED = re.compile(r"```.*?```|`[^`\n]*`|(?<=href=)\"#\w+\"|(?<=id=)\"\w+\"", re.DOTALL)


def identifiers_of(source: str) -> Iterator[tuple[int, str]]:
    """Names that a module gives: functions, classes, arguments, variables, attributes.

    Not the operand of an operator (`__add__(self, other)`), and not the fields of a class: those of
    records are keys on disk.
    """
    tree = ast.parse(source)
    operands = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("__")
        for argument in node.args.args
    }
    fields = {
        id(item.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if id(node) in operands or id(node) in fields:
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def identifier_faults(source: str) -> list[str]:
    """Rejected identifiers of a module, each with its line and what to write instead."""
    faults = []
    for line, name in identifiers_of(source):
        bare = name.strip("_")
        advice = _IDENTIFIERS.get(bare) or next(
            (_PARTS[part] for part in bare.lower().split("_") if part in _PARTS), None
        )
        if advice:
            faults.append(f"{line}: {name} ({advice})")
    return sorted(set(faults))


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """Comments and string literals with their lines; not single words, which are keys."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (
            token.type == tokenize.STRING and " " in token.string
        ):
            yield token.start[0], token.string


def phrase_faults(text: str) -> list[str]:
    """Rejected phrases of a text, each with what to write instead; code in backticks aside."""
    plain = re.sub(r"\s+", " ", _QUOTED.sub("", text))
    faults = []
    for pattern, advice in _PHRASES.items():
        for match in re.finditer(pattern, plain, flags=re.IGNORECASE):
            around = plain[max(match.start() - 30, 0) : match.end() + 20]
            faults.append(f"…{around}… ({advice})")
    return faults


def test_no_rejected_identifier_is_in_the_source() -> None:
    faults = [
        f"{path.relative_to(_SRC)}:{fault}"
        for path in sorted(_SRC.rglob("*.py"))
        for fault in identifier_faults(path.read_text(encoding="utf-8"))
    ]
    assert faults == []


def test_no_module_has_a_rejected_name() -> None:
    names = [path.relative_to(_SRC) for path in _SRC.rglob("*.py")]
    assert [name for name in names if _MODULES.keys() & {*name.parts[:-1], name.stem}] == []


def test_no_rejected_phrase_is_in_the_source() -> None:
    faults = [
        f"{path.relative_to(_SRC)}:{line}: {fault}"
        for path in sorted(_SRC.rglob("*.py"))
        for line, text in prose_of(path.read_text(encoding="utf-8"))
        for fault in phrase_faults(text)
    ]
    assert faults == []


def test_no_rejected_phrase_is_in_what_ships_beside_the_source() -> None:
    """Templates of the report and the model card, presets, plans and spaces."""
    faults = [
        f"{path.relative_to(_SRC)}: {fault}"
        for path in sorted(_SRC.rglob("*"))
        if path.suffix in (".html", ".js", ".md", ".yaml")
        for fault in phrase_faults(path.read_text(encoding="utf-8"))
    ]
    assert faults == []


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_rejected_phrase_is_in_the_documentation(page: Path) -> None:
    assert phrase_faults(page.read_text(encoding="utf-8")) == []


def test_the_lists_find_what_they_name() -> None:
    assert identifier_faults("def f(heard): pass") == ["1: heard (hypothesis, transcript)"]
    assert identifier_faults("self.told_lines = place = 1")
    assert identifier_faults("placed = ones = 1") == []
    assert identifier_faults("class A:\n    def __add__(self, other): pass\n    whole: int") == []
    assert phrase_faults("Mend these\nlines: `mend` is a key")
    assert phrase_faults("Fix these lines: `mend` is a key") == []
    assert len(phrase_faults("stdout is data, stderr is talk; what was\nheard")) == 2
    assert DOCS.is_dir()
