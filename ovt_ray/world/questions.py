"""The question kinds of the embedded world: wording, arguments, the chain of steps to the answer, and the answer.

A kind is a template and a function from a figure to a solution. The function gives the gold answer for the true figure, and a teacher's
answer for the figure that the teacher believes in.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ovt_ray.core.types import AnswerKind
from ovt_ray.world.figures import COLOURS, SHAPES, BarChart, Figure, ShapeGrid

Arguments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """A careful way to an answer."""

    readings: str
    """Readings of the figure that the answer needs."""
    calculation: str
    """Calculation from the readings; empty if the answer is a reading."""
    answer: str

    @property
    def steps(self) -> str:
        """The whole chain of thought."""
        return f"{self.readings} {self.calculation}".rstrip()


@dataclass(frozen=True)
class QuestionKind:
    """A way to ask about a kind of figure."""

    name: str
    template: str
    """Question with `{0}`, `{1}` for its arguments."""
    figure: type[BarChart] | type[ShapeGrid]
    answer_kind: AnswerKind
    arguments: Callable[[Figure], Sequence[Arguments]]
    """Function that returns the arguments with which the question has exactly one answer on a figure, without ties."""
    solve: Callable[[Figure, Arguments], Solution]
    """Function that returns the solution. Raises KeyError or ValueError if the figure does not show the arguments."""
    is_hard: bool = False
    takes_short_cuts: bool = False
    """Whether the reasoner is tempted to guess, as in kinds of two or more steps."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Pattern that matches the kind's questions and captures the arguments."""
        return re.compile(re.sub(r"\\\{\d\\\}", r"(\\w+)", re.escape(self.template)))


def _heights(figure: Figure) -> dict[str, int]:
    return dict(figure.bars) if isinstance(figure, BarChart) else {}


def _cells(figure: Figure) -> tuple[tuple[str, str], ...]:
    return figure.cells if isinstance(figure, ShapeGrid) else ()


def _one_bar(figure: Figure) -> list[Arguments]:
    return [(colour,) for colour in _heights(figure)]


def _two_bars(figure: Figure) -> list[Arguments]:
    return list(itertools.permutations(_heights(figure), 2))


def _higher_first(figure: Figure) -> list[Arguments]:
    heights = _heights(figure)
    return [pair for pair in itertools.permutations(heights, 2) if heights[pair[0]] > heights[pair[1]]]


def _whole_chart(figure: Figure) -> list[Arguments]:
    return [()] if _heights(figure) else []


def _colours_shown(figure: Figure) -> list[Arguments]:
    return [(colour,) for colour in dict(_cells(figure))]


def _shapes_shown(figure: Figure) -> list[Arguments]:
    return [(shape,) for shape in SHAPES if any(shape == other for _, other in _cells(figure))]


def _single_shapes(figure: Figure) -> list[Arguments]:
    shapes = [shape for _, shape in _cells(figure)]
    return [(shape,) for shape in SHAPES if shapes.count(shape) == 1]


def _single_colours(figure: Figure) -> list[Arguments]:
    colours = [colour for colour, _ in _cells(figure)]
    return [(colour,) for colour in COLOURS if colours.count(colour) == 1]


def _any_colour(figure: Figure) -> list[Arguments]:
    return [(colour,) for colour in COLOURS] if _cells(figure) else []


def _two_colours(figure: Figure) -> list[Arguments]:
    return [(first[0], second[0]) for first, second in itertools.permutations(_colours_shown(figure), 2)]


def _height(figure: Figure, arguments: Arguments) -> Solution:
    height = _heights(figure)[arguments[0]]
    return Solution(_readings(figure, arguments), "", str(height))


def _sum(figure: Figure, arguments: Arguments) -> Solution:
    first, second = (_heights(figure)[colour] for colour in arguments)
    return Solution(_readings(figure, arguments), f"{first} + {second} = {first + second} .", str(first + second))


def _difference(figure: Figure, arguments: Arguments) -> Solution:
    first, second = (_heights(figure)[colour] for colour in arguments)
    return Solution(_readings(figure, arguments), f"{first} - {second} = {first - second} .", str(first - second))


def _is_higher(figure: Figure, arguments: Arguments) -> Solution:
    first, second = (_heights(figure)[colour] for colour in arguments)
    sign, answer = (">", "yes") if first > second else ("<", "no")
    return Solution(_readings(figure, arguments), f"{first} {sign} {second} .", answer)


def _highest(figure: Figure, arguments: Arguments) -> Solution:
    heights = _heights(figure)
    colour = max(heights, key=lambda name: heights[name])
    return Solution(figure.words, f"high {colour} .", colour)


def _total(figure: Figure, arguments: Arguments) -> Solution:
    first, second, third = _heights(figure).values()
    both, total = first + second, first + second + third
    return Solution(figure.words, f"{first} + {second} = {both} . {both} + {third} = {total} .", str(total))


def _range(figure: Figure, arguments: Arguments) -> Solution:
    heights = _heights(figure).values()
    high, low = max(heights), min(heights)
    return Solution(figure.words, f"high {high} . low {low} . {high} - {low} = {high - low} .", str(high - low))


def _count(figure: Figure, arguments: Arguments) -> Solution:
    """Count the cells that have one of the arguments as colour or shape."""
    counts = [sum(1 for cell in _cells(figure) if argument in cell) for argument in arguments]
    found = " ".join(f"{argument} {count} ." for argument, count in zip(arguments, counts, strict=True))
    addition = f" {counts[0]} + {counts[1]} = {sum(counts)} ." if len(counts) == 2 else ""
    return Solution(figure.words, found + addition, str(sum(counts)))


def _colour_of(figure: Figure, arguments: Arguments) -> Solution:
    colour = {shape: colour for colour, shape in _cells(figure)}[arguments[0]]
    return Solution(f"{colour} {arguments[0]} .", "", colour)


def _shape_of(figure: Figure, arguments: Arguments) -> Solution:
    shape = dict(_cells(figure))[arguments[0]]
    return Solution(f"{arguments[0]} {shape} .", "", shape)


def _is_there(figure: Figure, arguments: Arguments) -> Solution:
    return Solution(figure.words, "", "yes" if arguments[0] in dict(_cells(figure)) else "no")


def _readings(figure: Figure, colours: Arguments) -> str:
    """Return the readings of the named bars. Raises KeyError if the chart lacks one of them."""
    return " ".join(f"{colour} {_heights(figure)[colour]} ." for colour in colours)


NUMBER, TEXT, YESNO, CHOICE = AnswerKind.NUMBER, AnswerKind.TEXT, AnswerKind.YESNO, AnswerKind.CHOICE
KINDS = (
    QuestionKind("height", "How high is {0}?", BarChart, NUMBER, _one_bar, _height),
    QuestionKind("sum", "What is {0} plus {1}?", BarChart, NUMBER, _two_bars, _sum, takes_short_cuts=True),
    QuestionKind("difference", "How much higher is {0} than {1}?", BarChart, NUMBER, _higher_first, _difference, takes_short_cuts=True),
    QuestionKind("comparison", "Is {0} higher than {1}?", BarChart, YESNO, _two_bars, _is_higher, takes_short_cuts=True),
    QuestionKind("highest", "Which bar is highest?", BarChart, CHOICE, _whole_chart, _highest),
    QuestionKind("colour", "What colour is the {0}?", ShapeGrid, TEXT, _single_shapes, _colour_of),
    QuestionKind("shape", "Which shape is {0}?", ShapeGrid, CHOICE, _single_colours, _shape_of),
    QuestionKind("total", "What is the sum of all bars?", BarChart, NUMBER, _whole_chart, _total, is_hard=True, takes_short_cuts=True),
    QuestionKind(
        "range",
        "How much higher is the highest bar than the lowest?",
        BarChart,
        NUMBER,
        _whole_chart,
        _range,
        is_hard=True,
        takes_short_cuts=True,
    ),
)


def named_readings(figure: Figure) -> dict[str, str]:
    """Return the reading of each part that a single word names: every bar, and every shape with a colour or form of its own."""
    if isinstance(figure, BarChart):
        return {colour: f"{colour} {height} ." for colour, height in figure.bars}
    alone = [name for (name,) in (*_single_colours(figure), *_single_shapes(figure))]
    return {name: f"{colour} {shape} ." for name in alone for colour, shape in figure.cells if name in (colour, shape)}


def parse_question(question: str) -> tuple[QuestionKind, Arguments] | None:
    """Return the kind and arguments of a question by its wording; None for a question that this world does not ask."""
    for kind in KINDS:
        if match := kind.pattern.fullmatch(question):
            return kind, match.groups()
    return None


def parse_words(words: str) -> Figure | None:
    """Return the figure that readings such as `red 4 . blue 2 .` describe; None for any other text."""
    colours = "|".join(COLOURS)
    if bars := re.findall(rf"\b({colours}) (\d+) \.", words):
        return BarChart(tuple((colour, int(height)) for colour, height in bars))
    if cells := re.findall(rf"\b({colours}) ({'|'.join(SHAPES)}) \.", words):
        return ShapeGrid(tuple(cells))
    return None
