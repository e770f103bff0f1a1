"""The filters of single chains. Each returns the reason why it drops a chain, or None, in time linear in the chain.

They see a chain after its reflections were cut, if reflections are cut. The first filter with a reason drops the chain.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ovt_ray.core.config.traces import TraceFilters
from ovt_ray.core.types import Problem
from ovt_ray.distillation.contamination import EvaluationSet
from ovt_ray.distillation.texts import words

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
REPEATED_RUN = 4
"""Number of words in a run whose repetitions are counted."""
MIN_RUNS = 20
"""Fewest runs of a chain that is long enough to judge."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NEUTRAL = ((0, 0x3FF), (0x1D00, 0x218F), (0xFB00, 0xFB06), (0xFF21, 0xFF5A), (0x1D400, 0x1D7FF))
"""Code points of letters that mathematics uses in every language: Latin with ligatures, Greek, letter-like, mathematical alphabets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A correct chain that may become a trace."""

    problem: Problem
    index: int
    """Place of the chain among the chains of its problem."""
    response: str
    """Text of the chain, after the cut of reflections if they are cut."""
    is_cut: bool = False
    """Whether a reflection was cut."""

    @property
    def num_words(self) -> int:
        """Number of words, separated by white space."""
        return len(self.response.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that a filter knows in addition to the chain."""

    rules: TraceFilters
    evaluation: EvaluationSet


Filter = Callable[[Candidate, Context], str | None]


def explain(candidate: Candidate, context: Context) -> tuple[str, str] | None:
    """Return the name of the filter that drops a chain, and its reason; None if all filters let it pass."""
    for name, reason_of in FILTERS.items():
        if reason := reason_of(candidate, context):
            return name, reason
    return None


def cut_reflection(response: str, keywords: Sequence[str]) -> str:
    """Return the response with its thinking cut at the first reflection and its final answer kept."""
    thinking, closing, rest = response.partition("</think>")
    found = _reflection(thinking, tuple(keywords))
    if not found or not closing:
        return response
    return f"{thinking[: found.start()].rstrip()} {closing}{rest}"


def repeated_share(text: str) -> float:
    """Return the share of the text's four-word runs that repeat an earlier run; 0 for a text that is too short to judge."""
    spoken = words(text)
    num_runs = len(spoken) - REPEATED_RUN + 1
    if num_runs < MIN_RUNS:
        return 0.0
    return 1 - len(set(zip(*(spoken[first:] for first in range(REPEATED_RUN)), strict=False))) / num_runs


def foreign_share(text: str, problem_text: str) -> tuple[float, str]:
    """Return the share of letters in scripts that neither mathematics nor the problem's text uses, and the most frequent such script.

    Chinese and Japanese characters count as one script.
    """
    if text.isascii():
        return 0.0, ""
    known = {_script(letter) for letter in set(problem_text)} | {""}
    letters = {letter: count for letter, count in Counter(text).items() if letter.isalpha()}
    foreign: Counter[str] = Counter()
    for letter, count in letters.items():
        if (script := _script(letter)) not in known:
            foreign[script] += count
    return (foreign.total() / sum(letters.values()), foreign.most_common(1)[0][0]) if foreign else (0.0, "")


def _broken_format(candidate: Candidate, context: Context) -> str | None:
    text = candidate.response
    if not context.rules.format:
        return None
    for tag in TAGS:
        if (count := text.count(tag)) != 1:
            return f"{tag} stands there {count} times, not once"
    if sorted(TAGS, key=text.find) != list(TAGS):
        return f"the tags are not in the order {' '.join(TAGS)}"
    if not (text.strip().startswith(TAGS[0]) and text.strip().endswith(TAGS[-1])):
        return f"there is text before {TAGS[0]} or after {TAGS[-1]}"
    control = _CONTROL.search(text)
    return f"it holds U+{ord(control[0]):04X}, which is no text" if control else None


def _reflecting(candidate: Candidate, context: Context) -> str | None:
    if context.rules.reflection != "drop":
        return None
    found = _reflection(candidate.response.partition("</think>")[0], context.rules.reflection_keywords)
    return f"it doubts itself: {found[0]!r}" if found else None


def _thoughtless(candidate: Candidate, context: Context) -> str | None:
    thought = candidate.response.partition("</think>")[0].strip().removeprefix("<think>").strip()
    return None if thought else "nothing stands in its thinking" + (" before the first doubt" if candidate.is_cut else "")


def _too_long(candidate: Candidate, context: Context) -> str | None:
    bound = context.rules.max_words
    return f"{candidate.num_words:,} words, more than {bound:,}" if bound is not None and candidate.num_words > bound else None


def _repeating(candidate: Candidate, context: Context) -> str | None:
    bound = context.rules.max_repetition
    if bound is None or (share := repeated_share(candidate.response)) <= bound:
        return None
    return f"{share:.0%} of its runs of {REPEATED_RUN} words stood there before, more than {bound:.0%}"


def _foreign(candidate: Candidate, context: Context) -> str | None:
    problem, bound = candidate.problem, context.rules.max_foreign
    if bound is None:
        return None
    share, script = foreign_share(candidate.response, "".join([problem.question, *problem.choices, problem.answer]))
    return (
        f"{share:.1%} of its letters, most of them {script}, are in no script of the problem, more than {bound:.1%}"
        if share > bound
        else None
    )


def _contaminated(candidate: Candidate, context: Context) -> str | None:
    return context.evaluation.overlap(candidate.problem) if context.rules.contamination else None


FILTERS: dict[str, Filter] = {
    "format": _broken_format,
    "reflection": _reflecting,
    "thought": _thoughtless,
    "words": _too_long,
    "repetition": _repeating,
    "language": _foreign,
    "contamination": _contaminated,
}
"""Filters by name, in the order of their use: cheap filters come first."""


def _reflection(thinking: str, keywords: tuple[str, ...]) -> re.Match[str] | None:
    """Return the first reflection. Most chains hold no keyword at all, and `in` finds that out much faster than a pattern."""
    return _reflections(keywords).search(thinking) if any(keyword in thinking for keyword in keywords) else None


@lru_cache(maxsize=16)
def _reflections(keywords: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(keywords, key=len, reverse=True)))})(?!\w)")


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """Return the script of a letter; empty for other characters and for the letters of mathematics."""
    if not letter.isalpha() or any(first <= ord(letter) <= last for first, last in _NEUTRAL):
        return ""
    script = unicodedata.name(letter, "unknown").split()[0].lower()
    return "cjk" if script in ("hiragana", "katakana") else script
