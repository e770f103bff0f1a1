"""Reads yes or no."""

import re

from reward.texts import plain

YES, NO = frozenset({"yes", "true", "correct", "yeah", "yep"}), frozenset({"no", "false", "incorrect", "nope"})
"""Words that are an answer by themselves."""
_GOLD_YES, _GOLD_NO = YES | {"1", "y"}, NO | {"0", "n"}
"""HallusionBench writes 1 and 0."""
_LEAD = re.compile(r"(?:the answer is |it is )?(yes|no|true|false|yeah|yep|nope)\b(?P<after>.?)(?P<rest>.*)")
_TAIL = re.compile(r"(?:,| answer is:?| so| is| hence| therefore,?) (yes|no|true|false)$")
_GOES_ON = ("and", "or", "but", "/", "if", "maybe")


def read_gold(text: str) -> bool | None:
    """Return what a gold answer says; None if it is neither."""
    word = plain(text)
    return True if word in _GOLD_YES else False if word in _GOLD_NO else None


def read_truth(text: str) -> bool | None:
    """Return True for yes, False for no; None where the text says neither, or both (`yes and no`, `No, yes`).

    A sentence says what it begins with: `Yes, the lines are straight.` Words such as `correct` count alone only.
    """
    words = plain(text)
    if words in YES or words in NO:
        return words in YES
    lead = _LEAD.match(words)
    if lead is None or lead["after"] not in ("", *" ,.;:!-—*\"'"):
        return None
    rest = lead["rest"].strip(" ,.;:!-—*\"'")
    first = lead[1] in YES
    if rest.split(" ", 1)[0].strip(",.") in (*_GOES_ON, *(NO if first else YES)):
        return None
    tail = _TAIL.search(words[-40:])
    if tail is not None and (tail[1] in YES) is not first:
        return None
    return first
