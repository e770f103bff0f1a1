r"""Reads the final answer out of model text in the one format accepted in training.

    <think> ... </think> ... <answer> ... </answer>

Everything here takes time linear in the text: tags are found with `str.find`, never by a regular expression.
"""

from dataclasses import dataclass

from reward.verifier.clean import is_balanced, restored

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
BOXED = "\\boxed{"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The final answer of one completion, or why there is none."""

    answer: str | None
    """Without its tags, surrounding white space and box; None if the text is not in the format."""
    reason: str = ""
    """What breaks the format; empty where there is an answer."""


def extract_answer(text: str) -> Extraction:
    """Return the answer of a text that keeps the format exactly, else which part of the format it breaks.

    Tags inside the thinking do not count. The same answer may be given several times, different answers are refused:
    a text that tries every option must not be scored by its last one.
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
    r"""Return what stands in the box of an answer that is one `\boxed{...}` (or `$\boxed{...}$`), else the answer."""
    inner = answer
    if inner.startswith("$") and inner.endswith("$"):
        inner = inner[1:-1].strip()
    if not (inner.startswith(BOXED) and inner.endswith("}")):
        return answer
    body = inner[len(BOXED) : -1]
    return body.strip() if is_balanced(body) else answer
