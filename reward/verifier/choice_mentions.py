"""Reads the option that a phrase or sentence states: `B, because ...`, `There is a surplus.`, `so the correct option is (B)`."""

import re

from reward.verifier.choices import are_truths, find_choice, is_contradiction
from reward.verifier.number_mentions import number_in
from reward.verifier.numbers import read_number
from reward.verifier.sentences import ALTERNATIVE, CORRECTION, NEGATION, NOTHING, SEVERAL, Statement, sentences
from reward.verifier.stated import MARK, is_stated, mentions_neighbour
from reward.verifier.symbolic import is_expression
from reward.verifier.texts import key, plain

_DENIED = re.compile(r"\b(?:no|without|none|hardly|doubt|unlikely|rather than|instead of|opposite of)\b", re.I)
_MARKED_LETTER = re.compile(
    r"""
    (?<![\w)])\(([A-Za-z])\) | \*\*\(?([A-Z])[.)]?\*\* | \\text\{\(?([A-Z])\)?\}
    | \b(?:[Oo]ption|[Cc]hoice|[Aa]nswer(?:\ is)?:?)\ \(?
      ([B-Z]|A(?!\ [a-z])|A(?=\ (?:because|since|as|which|is)\b)|[a-z](?=[).]|$))(?=[\s).,:;*]|$)
    | ^\(?([A-Za-z])(?:[.):,](?=\s|$)|$)
    | \b([A-Z])\)?\ (?:is|seems|must\ be)\ (?:the\ )?(?:correct|right|best|answer)
    """,
    re.VERBOSE,
)
_MAX_MENTIONS = 3
_LETTERS = re.compile(r"(?<!\w)\(?[A-Z]\)?(?:\s*(?:,|/|&|;|\bor\b|\band\b)\s*(?:or |and )?\(?[A-Z]\)?(?!\w))+")
_CAPITAL = re.compile(r"(?<![\w'])([B-HJ-Z]|[AI](?! [a-z]))(?![\w'])")


def choice_in(text: str, choices: tuple[str, ...]) -> Statement:
    """Return the option that is the text or leads it, or the only option that it mentions.

    A letter with the text of a different option is an answer too, and names no option.
    """
    first = sentences(text)[0].strip()
    if is_contradiction(text, choices) or is_contradiction(first, choices):
        return Statement(answer=text)
    if CORRECTION.search(text):
        return SEVERAL
    for part in dict.fromkeys([text, first]):
        if part and find_choice(part, choices) is not None:
            return Statement(answer=part) if part == text else _unless_contradicted(part, text, choices)
    own_words = _without_denying_options(text, choices)
    if NEGATION.search(own_words):
        return NOTHING
    if _LETTERS.search(text) and not any(_LETTERS.search(choice) for choice in choices):
        return SEVERAL
    letters, texts = _letters_in(text, choices), _texts_in(text, choices)
    if are_truths(choices):  # `There is no doubt` says neither
        texts = set()
    if len(letters) == 1 and (not texts or texts & letters) and not _labelled_in(text, choices) - letters:
        return Statement(answer=f"({chr(ord('A') + next(iter(letters)))})")
    if letters or len(texts) > 1:
        return SEVERAL
    if texts and read_number(choices[next(iter(texts))]) is None:
        option = choices[next(iter(texts))]
        is_answer = (_is_name_in(text, option) or is_stated(_marked(text, option))) and not _DENIED.search(own_words)
        return Statement(answer=option) if is_answer else NOTHING
    number = number_in(text)
    if (number.is_several and any(read_number(choice) is not None for choice in choices)) or (
        number.answer is not None and find_choice(number.answer, choices) is not None
    ):
        return number
    if texts:
        return NOTHING
    return Statement(answer=text) if len(text) > 1 and is_expression(text) else NOTHING


def _without_denying_options(text: str, choices: tuple[str, ...]) -> str:
    """Return the text without the options that hold a negation themselves, such as `It cannot be determined`."""
    for choice in choices:
        if NEGATION.search(choice) or _DENIED.search(choice):
            text = re.sub(rf"(?<!\w){re.escape(choice.strip(' .'))}(?!\w)", " ", text, flags=re.I)
    return text


def _unless_contradicted(part: str, text: str, choices: tuple[str, ...]) -> Statement:
    """Return the option that a first sentence names, unless the rest marks a different option by letter or as an alternative."""
    place = find_choice(part, choices)
    rest = text[len(part) :]
    others = _letters_in(rest, choices) | (_texts_in(rest, choices) if ALTERNATIVE.search(rest) else set())
    return SEVERAL if others - {place} else Statement(answer=part)


def _letters_in(text: str, choices: tuple[str, ...]) -> set[int]:
    """Return the places of the options that are mentioned by letter. A lone capital counts only where the options are letters."""
    letters = [next(part for part in found.groups() if part) for found in _MARKED_LETTER.finditer(text)]
    if not letters and all(len(choice.strip("() ")) == 1 for choice in choices):
        letters = _CAPITAL.findall(text)
    places = {ord(letter.upper()) - ord("A") for letter in letters}
    return {place for place in places if place < len(choices)}


def _labelled_in(text: str, choices: tuple[str, ...]) -> set[int]:
    """Return the places of the options that stand in the text behind their letters: `B. blue C. green`."""
    labels = [rf"(?<!\w){chr(ord('A') + place)}[.):]\)? ?{re.escape(choice)}(?!\w)" for place, choice in enumerate(choices)]
    return {place for place, label in enumerate(labels) if re.search(label, text)}


def _texts_in(text: str, choices: tuple[str, ...]) -> set[int]:
    """Return the places of the options whose text is mentioned as whole words. The longest come first: none counts inside another.

    An option that is repeated over and over is no statement. All places are then returned.
    """
    words = f" {key(text)} "
    found: set[int] = set()
    for place in sorted(range(len(choices)), key=lambda place: -len(choices[place])):
        spelling = key(choices[place])
        if len(spelling) < 2 and not spelling.isdigit():
            continue
        words, num_mentions = _mention(spelling).subn(" ", words)
        if num_mentions > _MAX_MENTIONS:
            return set(range(len(choices)))
        if num_mentions:
            found.add(place)
    return found


def _is_name_in(text: str, option: str) -> bool:
    """Return whether the text states an option that is a name or several words, and no neighbour of it. A plain word needs an `is`."""
    is_name = " " in option.strip() or (option[:1].isupper() and option in text)
    return is_name and not mentions_neighbour(_marked(text, option))


def _marked(text: str, option: str) -> str:
    """Return the plain text with a mark for the option."""
    return _mention(key(option)).sub(MARK, plain(text))


def _mention(spelling: str) -> re.Pattern[str]:
    """Return the pattern of an option's spelling as whole words."""
    return re.compile(rf"(?<![\w.,/^\\{{√+*-]){re.escape(spelling)}(?![\w/^°%}}√+*\\]|[.,:]\d)")
