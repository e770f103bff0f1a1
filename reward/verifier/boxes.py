r"""Finds `\boxed{...}` in one pass, however deep the braces are."""

import re

_MARK = re.compile(r"\\(?:boxed|fbox)\s*\{|\\?[{}]")


def boxed_answers(text: str) -> tuple[list[str], bool]:
    r"""Return the stripped contents of all outermost boxes that are not empty, and whether a box stays open."""
    if "boxed" not in text and "fbox" not in text:
        return [], False
    answers: list[str] = []
    depth, start, level = 0, None, 0
    for mark in _MARK.finditer(text):
        if mark[0] in ("\\{", "\\}"):
            continue
        if mark[0].endswith("}"):
            depth -= 1
            if start is not None and depth < level:
                answers.append(text[start : mark.start()].strip())
                start = None
            depth = max(depth, 0)
            continue
        depth += 1
        if len(mark[0]) > 2 and start is None:
            start, level = mark.end(), depth
    return [answer for answer in answers if answer], start is not None
