"""The question kinds of the embedded world: wording, arguments, the chain of steps to the answer, and the answer.

A kind is a template and a function from what a figure shows to a solution. The same function gives the gold answer
when it is asked of the figure, and a teacher's answer when it is asked of what the teacher believes the figure shows.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ovt_ray.types import AnswerKind
from ovt_ray.world.figures import COLOURS, SHAPES, BarChart, Figure, Cards

Arguments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """A careful way to an answer."""

    readings: str
    """What has to be seen."""
    calculation: str
    """What follows from the readings alone; empty if the answer is one of them."""
    answer: str

    @property
    def steps(self) -> str:
        """The whole chain of thought."""
        return f"{self.readings} {self.calculation}".rstrip()


@dataclass(frozen=True)
class QuestionKind:
    """One way to ask about one kind of figure."""

    name: str
    template: str
    """Question with `{0}`, `{1}` for its arguments."""
    figure: type[BarChart] | type[Cards]
    answer_kind: AnswerKind
    arguments: Callable[[Figure], Sequence[Arguments]]
    """The arguments with which the question has exactly one answer on a figure, without ties."""
    solve: Callable[[Figure, Arguments], Solution]
    """The way to the answer. Raises KeyError or ValueError if the figure does not show what is asked for."""
    has_steps: bool = False
    """Whether something has to be calculated from the readings."""
    is_hard: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the kind's questions and captures the arguments."""
        return re.compile(re.sub(r"\\\{\d\\\}", r"(\\w+)", re.escape(self.template)))


def _one(figure: Figure) -> list[Arguments]:
    return [(colour,) for colour in figure.numbers]


def _two(figure: Figure) -> list[Arguments]:
    return list(itertools.permutations(figure.numbers, 2))


def _larger_first(figure: Figure) -> list[Arguments]:
    numbers = figure.numbers
    return [pair for pair in itertools.permutations(numbers, 2) if numbers[pair[0]] > numbers[pair[1]]]


def _whole(figure: Figure) -> list[Arguments]:
    return [()]


def _forms(figure: Figure) -> list[Arguments]:
    return [(shape,) for shape in SHAPES]


def _number(figure: Figure, arguments: Arguments) -> Solution:
    return Solution(_readings(figure, arguments), "", str(figure.numbers[arguments[0]]))


def _sum(figure: Figure, arguments: Arguments) -> Solution:
    first, second = (figure.numbers[colour] for colour in arguments)
    return Solution(_readings(figure, arguments), f"{first} + {second} = {first + second} .", str(first + second))


def _difference(figure: Figure, arguments: Arguments) -> Solution:
    first, second = (figure.numbers[colour] for colour in arguments)
    return Solution(_readings(figure, arguments), f"{first} - {second} = {first - second} .", str(first - second))


def _is_larger(figure: Figure, arguments: Arguments) -> Solution:
    first, second = (figure.numbers[colour] for colour in arguments)
    sign, answer = (">", "yes") if first > second else ("<", "no")
    return Solution(_readings(figure, arguments), f"{first} {sign} {second} .", answer)


def _largest(figure: Figure, arguments: Arguments) -> Solution:
    colour = max(figure.numbers, key=lambda name: figure.numbers[name])
    return Solution(_readings(figure, (colour,)), "", colour)


def _total(figure: Figure, arguments: Arguments) -> Solution:
    first, second, third = figure.numbers.values()
    both, total = first + second, first + second + third
    readings = _readings(figure, tuple(figure.numbers))
    return Solution(readings, f"{first} + {second} = {both} . {both} + {third} = {total} .", str(total))


def _range(figure: Figure, arguments: Arguments) -> Solution:
    numbers = figure.numbers.values()
    high, low = max(numbers), min(numbers)
    readings = _readings(figure, tuple(figure.numbers))
    return Solution(readings, f"high {high} . low {low} . {high} - {low} = {high - low} .", str(high - low))


def _colour_of(figure: Figure, arguments: Arguments) -> Solution:
    colour = {shape: colour for colour, shape, _ in _cards(figure)}[arguments[0]]
    return Solution(f"{arguments[0]} {colour} .", "", colour)


def _shape_of(figure: Figure, arguments: Arguments) -> Solution:
    shape = {colour: shape for colour, shape, _ in _cards(figure)}[arguments[0]]
    return Solution(f"{arguments[0]} {shape} .", "", shape)


def _cards(figure: Figure) -> tuple[tuple[str, str, int], ...]:
    return figure.cards if isinstance(figure, Cards) else ()


def _readings(figure: Figure, colours: Arguments) -> str:
    """Return the numbers of the named parts. Raises KeyError if the figure does not show one."""
    return " ".join(f"{colour} {figure.numbers[colour]} ." for colour in colours)


NUMBER, TEXT, YESNO, CHOICE = AnswerKind.NUMBER, AnswerKind.TEXT, AnswerKind.YESNO, AnswerKind.CHOICE
KINDS = (
    QuestionKind("bar height", "How high is {0}?", BarChart, NUMBER, _one, _number),
    QuestionKind("bar sum", "What is {0} plus {1}?", BarChart, NUMBER, _two, _sum, has_steps=True),
    QuestionKind("bar difference", "How much higher is {0} than {1}?", BarChart, NUMBER, _larger_first, _difference, has_steps=True),
    QuestionKind("bar comparison", "Is {0} higher than {1}?", BarChart, YESNO, _two, _is_larger, has_steps=True),
    QuestionKind("highest bar", "Which bar is highest?", BarChart, CHOICE, _whole, _largest),
    QuestionKind("dots", "How many dots has {0}?", Cards, NUMBER, _one, _number),
    QuestionKind("dot sum", "How many dots have {0} and {1}?", Cards, NUMBER, _two, _sum, has_steps=True),
    QuestionKind("dot comparison", "Has {0} more dots than {1}?", Cards, YESNO, _two, _is_larger, has_steps=True),
    QuestionKind("shape colour", "What colour is the {0}?", Cards, TEXT, _forms, _colour_of),
    QuestionKind("colour's shape", "Which shape is {0}?", Cards, CHOICE, _one, _shape_of),
    QuestionKind("bar total", "What is the sum of all bars?", BarChart, NUMBER, _whole, _total, has_steps=True, is_hard=True),
    QuestionKind("bar range", "How far is the highest above the lowest?", BarChart, NUMBER, _whole, _range, has_steps=True, is_hard=True),
    QuestionKind("dot total", "How many dots are there?", Cards, NUMBER, _whole, _total, has_steps=True, is_hard=True),
)


def parse_question(question: str) -> tuple[QuestionKind, Arguments] | None:
    """Return the kind and arguments of a question by its wording; None for one that this world does not ask."""
    for kind in KINDS:
        if match := kind.pattern.fullmatch(question):
            return kind, match.groups()
    return None


def parse_words(words: str) -> Figure | None:
    """Return the figure that readings such as `red 4 . blue 2 .` describe; None if they describe none."""
    colours, shapes = "|".join(COLOURS), "|".join(SHAPES)
    if bars := re.findall(rf"\b({colours}) (\d+) \.", words):
        return BarChart(tuple((colour, int(height)) for colour, height in bars))
    if cards := re.findall(rf"\b({colours}) ({shapes}) (\d+) \.", words):
        return Cards(tuple((colour, shape, int(number)) for colour, shape, number in cards))
    return None
