"""Finds the option of a multiple-choice question that an answer names."""

import functools
import re
from dataclasses import dataclass

from reward.verifier.clean import flattened, tidy, unwrapped
from reward.verifier.expressions import canonical
from reward.verifier.numbers import Number, read_number, same_number
from reward.verifier.sentences import sentences
from reward.verifier.texts import key, plain, read_time, same_text
from reward.verifier.yesno import NO, YES, read_truth

DEFAULT_LETTERS = ("A", "B", "C", "D", "E")
"""The options of a question whose options are in the picture."""
_LETTER = re.compile(r"(?P<letter>[a-z])(?:\s*(?:[).:\]]+|-(?=\s))\s*(?P<rest>.*)| (?P<loose>.+))?")
_ARTICLE = re.compile(r"a |A (?=[a-z]{2})")
_LAST_LETTER = re.compile(r"(?P<rest>.+?)[ ,]*[(\[](?P<letter>[a-z])[)\]]?")
_PREFIX = re.compile(
    r"(?:(?:the )?(?:correct |right |best |final )?(?:answer|option|choice)(?: is)?|it is|(?:i(?: would|'d)? )?(?:choose|pick|select))"
    r"[: ] ?(?=.)(?:option |choice |letter )?",
    re.I,
)
_OPTION_NUMBER = re.compile(r"\b(?:option|choice) \(?(\d{1,2})\)?$")
_BRACKETED_LETTER = re.compile(r"\([A-Za-z]\)\.?")
_LABEL = re.compile(r"\(?([A-Za-z])[).:]\s*(?=\S)")
_SPLITTING_WORDS = frozenset(
    ["not", "no", "none", "neither", "nor", "and", "or", "only", "except", "without", "both", "all", "more", "less"]
)
_LABELLED = re.compile(r"\(?([A-Za-z])(?:([).:\]]+|-(?=\s))\s*|\s)(.+)", re.DOTALL)
_TURNING_WORDS = frozenset(["not", "no", "none", "neither", "all", "both", "never"])
_MAX_TURNED_WORDS = 4
"""Upper bound on the words after a letter that are an option's text and no reason. `E. all of them` is not the option `none of them`."""
_MAX_EXTRA_WORDS = 3
_MIN_PART_CHARS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of a question in the spellings by which answers find them."""

    texts: tuple[str, ...]
    keys: tuple[str, ...]
    numbers: tuple[Number | None, ...]
    canonicals: tuple[str, ...]
    are_truths: bool
    """Whether every option is yes or no."""
    are_letters: bool
    """Whether every option is a letter itself."""


def find_choice(answer: str, choices: tuple[str, ...]) -> int | None:
    """Return the place of the option that the answer names by letter, by text or by both; None if it names none.

    A letter and a text that belong to different options name none. Where options are themselves letters, a bare letter is the text, and
    a bracketed letter, `(B)`, is the letter. The first letter of `A shortage` is an article, and the first letter of `A 49` is a letter.
    """
    if _OPTION_NUMBER.search(plain(answer)) and is_contradiction(answer, choices):
        return None
    options = _options(choices)
    answer = unwrapped(tidy(answer))
    stripped = _PREFIX.sub("", answer, count=1) if _PREFIX.match(answer) else answer
    for text in (answer, stripped) if stripped != answer else (answer,):
        place = _find(text, options)
        if place is not None:
            return place
    return None


def is_contradiction(answer: str, choices: tuple[str, ...]) -> bool:
    """Return whether the answer is an option's letter with the text of a different option, or a letter that no option has.

    `Option 4` is a contradiction too where another option than the fourth reads 4.
    """
    options = _options(choices)
    if (number := _OPTION_NUMBER.search(plain(answer))) and int(number[1]) <= len(options.texts) and number[1] in options.keys:
        return options.keys[int(number[1]) - 1] != number[1]
    answer = _PREFIX.sub("", unwrapped(tidy(answer)), count=1)
    match = _LABELLED.match(answer)
    if match is None or answer in options.texts or _ARTICLE.match(answer):
        return False
    letter, mark, rest = match.groups()
    if not mark and not letter.isupper():
        return False
    named = {_by_text(part, options) for part in (rest, sentences(rest)[0].strip())} - {None}
    place = ord(letter.upper()) - ord("A")
    if place >= len(options.texts):
        return bool(mark) and (letter.isupper() or bool(named))
    words = key(rest).split()
    turns = _TURNING_WORDS.intersection(words) - set(options.keys[place].split())
    is_turned = bool(mark and turns) and len(words) <= _MAX_TURNED_WORDS and not options.are_letters
    return is_turned or any(options.keys[other] != options.keys[place] for other in named if other is not None)


def names_a_choice(gold: str, choices: tuple[str, ...]) -> bool:
    """Return whether there are choices and a row's gold answer names one by text or letter."""
    return bool(choices) and (gold in choices or find_choice(gold, choices) is not None)


def are_truths(choices: tuple[str, ...]) -> bool:
    """Return whether every option is yes or no, true or false."""
    return _options(choices).are_truths


def gold_choice(gold: str, choices: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the gold option's text and the options of a row whose gold answer may be a letter. Raises ValueError if it is no option.

    Without options the letters themselves are the options. A gold answer with letter and text takes the text.
    """
    if not choices:
        named = plain(gold).upper()
        last = max(named, DEFAULT_LETTERS[-1]) if len(named) == 1 and "A" <= named <= "Z" else DEFAULT_LETTERS[-1]
        choices = tuple(chr(code) for code in range(ord("A"), ord(last) + 1))
    if gold in choices:
        return gold, choices
    letter = gold.strip(" ().")
    is_letter = len(letter) == 1 and "A" <= letter <= chr(ord("A") + len(choices) - 1)
    place = ord(letter) - ord("A") if is_letter else find_choice(gold, choices)
    if place is None:
        raise ValueError(f"gold: {gold!r} is neither one of the choices {choices} nor the letter of one")
    return choices[place], choices


@functools.lru_cache(maxsize=4096)
def _options(choices: tuple[str, ...]) -> _Options:
    """Return the options without the labels (`A. 49`) that all of them carry in order."""
    labels = [_LABEL.match(choice.strip()) for choice in choices]
    if len(choices) > 1 and all(label and label[1].upper() == chr(ord("A") + place) for place, label in enumerate(labels)):
        texts = tuple(choice.strip()[label.end() :] for choice, label in zip(choices, labels, strict=True) if label)
    else:
        texts = choices
    keys = tuple(key(text) for text in texts)
    return _Options(
        texts=texts,
        keys=keys,
        numbers=tuple(read_number(text) for text in texts),
        canonicals=tuple(canonical(text) for text in texts),
        are_truths=all(word in YES | NO for word in keys),
        are_letters=all(len(word) == 1 and word.isalpha() for word in keys),
    )


def _find(answer: str, options: _Options) -> int | None:
    """Return the place that an answer without an introduction names."""
    words = plain(answer)
    if (not _BRACKETED_LETTER.fullmatch(answer) or answer.removesuffix(".") in options.texts) and (
        place := _exactly(answer, words, options)
    ) is not None:
        return place
    match = _LETTER.fullmatch(words)
    if match is None or _ARTICLE.match(answer):
        match = _LAST_LETTER.fullmatch(words.strip()) if answer.endswith((")", "]", ").")) else None
        if match is None:
            return _by_text(answer, options)
        rest: str | None = match["rest"]
    else:
        rest = match["rest"] or match["loose"]
    place = ord(match["letter"]) - ord("a")
    if place >= len(options.texts):
        return _by_text(answer, options)
    if rest:
        named = _by_text(rest, options)
        return place if named is not None and options.keys[named] == options.keys[place] else _unless_letter(answer, match, options)
    return place


def _unless_letter(answer: str, match: re.Match[str], options: _Options) -> int | None:
    """Return the option whose text only looks like a letter and a text (`a new moon`, `c = 5`). None if the letter contradicts the text."""
    is_label = match.re is _LAST_LETTER or match["loose"] is None or answer[:1].isupper()
    return None if is_label else _by_text(answer, options)


def _exactly(answer: str, words: str, options: _Options) -> int | None:
    """Return the place of the option with exactly this text, or with this text up to case and punctuation around it."""
    for exact in (answer, answer.removesuffix(".")):
        if exact in options.texts:
            return options.texts.index(exact)
    flat = flattened(answer)
    for place, text in enumerate(options.texts):
        if tidy(text) == flat:
            return place
    is_capital = len(flat) == 1 and flat.isupper()  # `A` names the first option, not the option `$a$`
    same = [place for place, text in enumerate(options.texts) if plain(text) == words and not (is_capital and flattened(text).islower())]
    return same[0] if same else None


def _by_text(answer: str, options: _Options) -> int | None:
    """Return the place of the option that means the same as the answer. None if no option does, or several different options."""
    words, spelling = key(answer), canonical(answer)
    found = [place for place, word in enumerate(options.keys) if word == words]
    found = found or [
        place
        for place, other in enumerate(options.canonicals)
        if other == spelling and spelling and (options.numbers[place] is None or read_number(answer) is not None)  # `1, 200` is not 1,200
    ]
    if not found and options.are_truths:
        truth = read_truth(answer)
        found = [place for place, word in enumerate(options.keys) if truth is not None and (word in YES) is truth]
    found = found or _by_number(answer, options)
    found = found or [place for place, text in enumerate(options.texts) if same_text(answer, text)]
    found = found or _by_time(words, options) or _by_part(words, options)
    return found[0] if found and len({options.canonicals[place] for place in found}) == 1 else None


def _by_number(answer: str, options: _Options) -> list[int]:
    """Return the places of the options with the answer's number, with or without a unit. Numbers with different units differ."""
    number = read_number(answer)
    if number is None:
        return []
    return [place for place, other in enumerate(options.numbers) if other is not None and same_number(number, other, None, "")]


def _by_time(words: str, options: _Options) -> list[int]:
    """Return the places of the options at the answer's time of day, which may leave out `A.M.` among options."""
    time = read_time(words)
    if time is None or time[1]:
        return []
    times = [read_time(plain(text)) for text in options.texts]
    return [place for place, other in enumerate(times) if other is not None and other[0] % 43200 == time[0] % 43200]


def _by_part(words: str, options: _Options) -> list[int]:
    """Return the place of the only option that begins with the answer (`larger` for `larger than`) and has few more words."""
    if len(words) < _MIN_PART_CHARS or not words[0].isalpha():
        return []
    found = [place for place, word in enumerate(options.keys) if word.startswith(words + " ")]
    left = options.keys[found[0]][len(words) :].split() if len(found) == 1 else []
    if not found:
        return [place for place, word in enumerate(options.keys) if word in (f"it {words}", f"there {words}", f"they {words}")]
    return found if 0 < len(left) <= _MAX_EXTRA_WORDS and _SPLITTING_WORDS.isdisjoint(left) else []
