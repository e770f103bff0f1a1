"""Cuts prose into sentences, and finds the words by which a sentence denies, hedges or gives a reason."""

import re
from dataclasses import dataclass

NEGATION = re.compile(
    r"\b(?:not|n't|cannot|can't|isn't|aren't|doesn't|don't|neither|nor|never|unable|impossible|incorrect|wrong|except|unclear"
    r"|anything but|other than)\b|n't\b",
    re.I,
)
CORRECTION = re.compile(
    r"""
    (?:[.!?;:,\n]|^)["'*\s]{0,4}
      (?:(?:But|However|Wait|Sorry|Oops|Correction|Actually|Hmm)\b|On\ second\ thought|I\ (?:made|misread|miscounted|apologi[sz]e)\b)
    | \?["'*\s]{0,4}No\b | \b(?:[Nn]o,?\ )?wait[,.!:] | \bno,?\ wait\b | \b[Ss]orry, | \b[Ii]t\ should\ (?:instead\ )?be\b
    | \b(?:[Tt]hat|[Tt]his|[Ii]t)(?:\ is|\ was|'s)\ (?:incorrect|wrong|not\ (?:right|correct)|false|a\ mistake)\b
    """,
    re.VERBOSE,
)
"""Words that take back the answer before them."""
ALTERNATIVE = re.compile(r"\b(?:answer|or|either|alternatively|also)\b", re.I)
REASON = re.compile(r",? \(?(?:because|since|as|which|given that|due to|based on|by)\b", re.I)
_SENTENCE_END = re.compile(r"(?<=[^\s.][.!?])(?<!\bMr.)(?<!\bMs.)(?<!\bMrs.)(?<!\bDr.)(?<!\bSt.)(?<!\bMt.)[*_]{0,2}\s+(?=[A-Z(\"'*\\$])|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The answer that a sentence states."""

    answer: str | None
    is_several: bool = False
    """Whether there is no answer because there are several."""


NOTHING, SEVERAL = Statement(answer=None), Statement(answer=None, is_several=True)


def sentences(text: str) -> list[str]:
    """Return the lines and sentences of a text without empty ones, at least one."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence and sentence.strip()] or [text]
