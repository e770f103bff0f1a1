r"""Reads the final answer from model text in the only format that training accepts.

    <think> ... </think> ... <answer> ... </answer>

All functions take time linear in the text: they find tags with `str.find`, never with a regular expression.
"""

from dataclasses import dataclass

from reward.verifier.clean import is_balanced, restored

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
BOXED = "\\boxed{"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The final answer of a completion, or the reason why there is none."""

    answer: str | None
    """Final answer without tags, surrounding white space and box; None if the text is not in the format."""
    reason: str = ""
    """Rule of the format that the text breaks; empty if there is an answer."""


def extract_answer(text: str) -> Extraction:
    """Return the answer of a text that keeps the format exactly, else the rule of the format that it breaks.

    Tags inside the thinking do not count. The same answer may be given several times. Different answers are refused, because a text that
    tries every option must not be scored by its last option.
    """
    text = restored(text).strip()
    if not text.startswith(THINK):
        return _refused(f"does not begin with {THINK}")
    _, closed, rest = text.partition(END_THINK)
    if not closed:
        return _refused(f"{THINK} is never closed")
    *pieces, tail = rest.split(END_ANSWER)
    if ANSWER in tail:
        return _refused(f"truncated: the last {ANSWER} is never closed")
    answers = [_unboxed(body.strip()) for _, opened, body in (piece.partition(ANSWER) for piece in pieces) if opened]
    if not answers:
        return _refused(f"no {ANSWER} after {END_THINK}")
    if tail.strip():
        return _refused(f"goes on after {END_ANSWER}")
    if len(set(answers)) > 1:
        return _refused(f"several different answers: {answers[-2][:40]!r} and {answers[-1][:40]!r}")
    return Extraction(answer=answers[-1]) if answers[-1] else _refused(f"{ANSWER} is empty")


def _refused(reason: str) -> Extraction:
    """Return the extraction of a text that breaks the format."""
    return Extraction(answer=None, reason=reason)


def _unboxed(answer: str) -> str:
    r"""Return the content of the box if the answer is a single `\boxed{...}` (or `$\boxed{...}$`), else the answer."""
    inner = answer
    if inner.startswith("$") and inner.endswith("$"):
        inner = inner[1:-1].strip()
    if not (inner.startswith(BOXED) and inner.endswith("}")):
        return answer
    body = inner[len(BOXED) : -1]
    return body.strip() if is_balanced(body) else answer
