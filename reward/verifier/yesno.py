"""Reads yes or no."""

import re

from reward.verifier.sentences import CORRECTION
from reward.verifier.texts import plain

YES, NO = frozenset({"yes", "true", "correct", "yeah", "yep"}), frozenset({"no", "false", "incorrect", "nope"})
"""Words that are a whole answer."""
_GOLD_YES, _GOLD_NO = YES | {"1", "y"}, NO | {"0", "n"}
"""Gold answers may also be 1 and 0, as HallusionBench writes them."""
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|overall|in conclusion|in summary),? )?"
    r"(?:(?:based on|according to|from|in|looking (?:\w+ly )?at) [^,.]{1,60}, )?"
    r"(?:the (?:answer|statement|claim) is |(?:it|this|that) is )?"
    r"(yes|no|true|false|yeah|yep|nope)\b(?P<after>.?)(?P<rest>.*)"
)
_AFTER_NO_WORDS = "it they he she there the this that these those you i we because since as none not"
_AFTER_NO = frozenset(_AFTER_NO_WORDS.split())
"""Words that continue a sentence after `no` without a comma. Before other words `no` is an article (`No cube is hidden.`)."""
_TAIL = re.compile(r"(?:,| answer is:?| so| is| hence| therefore,?) (yes|no|true|false)$")
_GOES_ON = ("and", "or", "but", "if", "maybe")
_WORD = re.compile(r"\w+")


def read_gold(text: str) -> bool | None:
    """Return True for a gold yes, False for a gold no; None for any other gold answer."""
    word = plain(text)
    return True if word in _GOLD_YES else False if word in _GOLD_NO else None


def read_truth(text: str) -> bool | None:
    """Return True for yes, False for no; None where the text says neither, or both (`yes and no`, `No, yes`).

    The beginning of a sentence decides: `Yes, the lines are straight.` Words such as `correct` count only alone.
    """
    words = plain(text)
    if words in YES | {"y"} or words in NO | {"n"}:
        return words in YES | {"y"}
    lead = _LEAD.match(words)
    if CORRECTION.search(text) or lead is None or lead["after"] not in ("", *" ,.;:!-—*\"'"):
        return None
    rest = lead["rest"].strip(" ,.;:!-—*\"'")
    first = lead[1] in YES
    if lead["after"] == "-" and lead["rest"][:1].isalpha() or lead[1] == "no" and lead["after"] == " " and _is_article(rest):
        return None
    following = _WORD.findall(rest)
    if rest.startswith("/") or (following and following[0] in _GOES_ON) or _has_turned(first, following):
        return None
    tail = _TAIL.search(words[-40:])
    if tail is not None and (tail[1] in YES) is not first:
        return None
    return first


def _has_turned(first: bool, following: list[str]) -> bool:
    """Return whether a list of answers (`yes; yes; no`) continues with the opposite of its first answer."""
    for word in following:
        if word not in YES | NO:
            return False
        if (word in YES) is not first:
            return True
    return False


def _is_article(rest: str) -> bool:
    """Return whether the `no` before these words belongs to them."""
    return rest[:1].isalnum() and re.split(r"[\W_]", rest, maxsplit=1)[0] not in _AFTER_NO
