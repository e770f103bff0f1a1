r"""Brings an answer into a plain spelling: removes invisible characters, repairs broken ones, and keeps everything that may have a meaning.

`tidy` is safe for any text. `unwrapped` removes marks that enclose a whole answer. `flattened` also rewrites LaTeX as plain text where
both mean the same (`\frac{1}{2}` as `1/2`, `\text{ cm}` as ` cm`, `^\circ` as a degree sign).
"""

import functools
import re
import unicodedata
from collections.abc import Callable

MAX_CHARS = 1000
"""Upper bound on the characters of an answer that is compared. A longer text is no final answer, and wrong."""
_INVISIBLE = dict.fromkeys([0xAD, 0x61C, 0x180E, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)])
_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("’‘ʼ′", "'"),
        **dict.fromkeys("“”″", '"'),
        **dict.fromkeys("−‐‑‒–﹣-", "-"),
        **dict.fromkeys("∶:", ":"),
        **dict.fromkeys("º˚", "°"),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **{chr(0x2080 + digit): f"_{digit}" for digit in range(10)},
        "∕": "/",
        "⁄": "/",
        "⋅": "·",
        "∙": "·",
        "✕": "×",
        "≦": "≤",
        "≧": "≥",
        "∼": "~",
        "〜": "~",
        "％": "%",
        "＄": "$",
        "，": ",",
        "。": ".",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_BLANK_GROUP = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
_SUPERSCRIPT_RUN = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_VULGAR = re.compile("(\\d?)([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_BROKEN_ESCAPE = re.compile(
    r"\f(?=rac|box)|\t(?=ext|imes|heta|frac|an\b|riangle)|\x08(?=oxed|eta|inom)|\r(?=ight|angle)|\x07(?=ngle|lpha|pprox)|\x0b(?=ec)"
)
_ESCAPE_LETTER = {"\f": r"\f", "\t": r"\t", "\x08": r"\b", "\r": r"\r", "\x07": r"\a", "\x0b": r"\v"}

_WRAPS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("`", "`"), ("*", "*"))
_WRAPPING_COMMAND = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mathsf|mathit|operatorname)\s*\{")
_MAX_WRAPS = 8

_SPACING = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|left\b\.?|right\b\.?|[bB]igg?[lr]?\b|limits\b)|~(?=\S)")
_INNER_FORMULA = re.compile(r"(?<!\\)\$(?! )([^$]{1,200}?)(?<![ \\])\$(?!\d)")
_THIN_GROUP = re.compile(r"(?<=\d)(?:\\,|\\!|\{,\}|,\\!)(?=\d{3}(?!\d))")
_ELEMENT = re.compile(r"\\(?:text|mathrm)\{([A-Za-z]{1,4})\}(?=_)|(?<=_\d)\\(?:text|mathrm)\{([A-Za-z]{1,4})\}")
_UNIT_BEHIND_FORMULA = re.compile(r"(?<=circ)\$(?=[A-Za-z])")
_BRACED_FRACTION = re.compile(r"\{(\d+)\} ?/ ?\{(\d+)\}")
_STYLED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mathit|mbox|operatorname|boxed)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\?circ\b\s*\}?|\\degrees?\b|\{degrees?\}|\^\{?\s*°\s*\}?|\^\{o\})")
_PLAIN_COMMANDS = {
    **{rf"\{name}": symbol for name, symbol in {"times": "×", "cdot": "·", "div": "÷", "pi": "π", "approx": "≈", "pm": "±"}.items()},
    **{rf"\{name}": symbol for name, symbol in {"le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥"}.items()},
    **{rf"\{name}": symbol for name, symbol in {"neq": "≠", "ne": "≠", "infty": "∞", "cup": "∪", "cap": "∩", "in": "∈"}.items()},
    **{rf"\{name}": symbol for name, symbol in {"angle": "∠", "theta": "θ", "alpha": "α", "beta": "β", "lt": "<", "gt": ">"}.items()},
    **{rf"\{name}": symbol for name, symbol in {"emptyset": "∅", "varnothing": "∅", "lvert": "|", "rvert": "|", "colon": ":"}.items()},
}
_COMMAND = re.compile(r"\\[a-zA-Z]+ ?")
_FRACTION_NAME = re.compile(r"\\[dtc]frac\b|\\[dtc]frac(?=\d)")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)\s*(\d)|(\d)\s*\{([^{}]*)\}|\{([^{}]*)\}\s*(\d))")
_WHOLE_FRACTION = re.compile(r"(\d?)\s?(-?)\\frac\s*\{\s*(-?)\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")


def remembered(spelling: Callable[[str], str]) -> Callable[[str], str]:
    """Return the function with a memory for short texts: several rules read the same answer, and every answer reads the options."""
    known = functools.lru_cache(maxsize=2048)(spelling)

    @functools.wraps(spelling)
    def spelled(text: str) -> str:
        return known(text) if len(text) <= MAX_CHARS else spelling(text)

    return spelled


@remembered
def tidy(text: str) -> str:
    """Return the text without invisible characters, with straight quotes and signs, and a single blank for each run of white space.

    Unicode fractions and superscripts become `1/2` and `^2`. Broken LaTeX commands are restored.
    """
    if not text.isascii():
        text = _BLANK_GROUP.sub(",", text)
        text = text.translate(_INVISIBLE).translate(_STRAIGHT)
        text = _VULGAR.sub(_spelled_fraction, text)
        text = _SUPERSCRIPT_RUN.sub(lambda run: "^" + run[0].translate(_SUPERSCRIPTS), text)
        text = unicodedata.normalize("NFC", text)
    return " ".join(restored(text).split())


def restored(text: str) -> str:
    """Return the text with restored LaTeX commands, whose backslash and first letter were unescaped to a control character."""
    if not any(control in text for control in _ESCAPE_LETTER):
        return text
    return _BROKEN_ESCAPE.sub(lambda escape: _ESCAPE_LETTER[escape[0]], text)


@remembered
def unwrapped(text: str) -> str:
    r"""Return a tidy answer without the dollar signs, asterisks, quotes, `\boxed{}` or `\text{}` that enclose all of it."""
    for _ in range(_MAX_WRAPS):
        inner = _without_one_wrap(text)
        if inner == text:
            break
        text = inner
    return text


@remembered
def flattened(text: str) -> str:
    """Return the tidy, unwrapped answer, with LaTeX in plain spelling where it has one. The result is for reading, not for parsing."""
    text = unwrapped(tidy(text))
    if not any(mark in text for mark in "\\{^~") and text.count("$") < 2:
        return text
    text = _INNER_FORMULA.sub(r"\1", _UNIT_BEHIND_FORMULA.sub("$ ", text))
    text = _THIN_GROUP.sub(",", text)
    text = _SPACING.sub(" ", text)
    text = _STYLED.sub(r" \1 ", _ELEMENT.sub(r"\1\2", text))
    text = _DEGREES.sub("°", text).replace(r"\%", "%").replace(r"\$", "$").replace(r"\_", "_").replace(r"\&", "&")
    text = _FRACTION_NAME.sub(r"\\frac", text)
    text = _SHORT_FRACTION.sub(_long_fraction, text)
    text = _BRACED_FRACTION.sub(r"\1/\2", _WHOLE_FRACTION.sub(_slashed, text))
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _COMMAND.sub(lambda command: _PLAIN_COMMANDS.get(command[0].rstrip(), command[0]), text)
    return unwrapped(" ".join(text.replace("$", " $ ").split()).replace("$ ", "$"))


def is_balanced(body: str) -> bool:
    """Return whether every closing brace has an opening brace before it, and none stays open."""
    depth = 0
    for character in body:
        if character in "{}":
            depth += 1 if character == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def _without_one_wrap(text: str) -> str:
    """Return the text without its outermost wrap. A text without a wrap is unchanged."""
    text = text.strip()
    for start, end in _WRAPS:
        inner = text[len(start) : -len(end)]
        if inner and text.startswith(start) and text.endswith(end) and start not in inner and end not in inner:
            return inner.strip()
    if text.endswith(("$.", "**.", "}.", r"\).", r"\].")) or text.endswith(("$,", "},")):
        return text[:-1]
    if text[:1] == "{" and text[-1:] == "}" and "," not in text and is_balanced(text[1:-1]):
        return text[1:-1].strip()
    if (command := _WRAPPING_COMMAND.match(text)) and text.endswith("}") and is_balanced(text[command.end() : -1]):
        return text[command.end() : -1].strip()
    return text


def _spelled_fraction(found: re.Match[str]) -> str:
    """Return a vulgar fraction as digits, apart from the whole number before it."""
    spelled = unicodedata.normalize("NFKC", found[2]).replace("⁄", "/")
    return f"{found[1]} {spelled}" if found[1] else spelled


def _long_fraction(found: re.Match[str]) -> str:
    r"""Return `\frac12`, `\frac1{2}` or `\frac{1}2` with both pairs of braces."""
    top, bottom = [part for part in found.groups() if part is not None]
    return f"\\frac{{{top}}}{{{bottom}}}"


def _slashed(found: re.Match[str]) -> str:
    r"""Return `\frac{1}{2}` as `1/2`, with a blank after the whole part of a mixed number."""
    whole, sign, inner_sign, top, bottom = found.groups()
    minus = "-" if (sign == "-") != (inner_sign == "-") else ""
    return f"{whole} {minus}{top}/{bottom}" if whole else f"{minus}{top}/{bottom}"
