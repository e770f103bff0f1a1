"""The figures of the embedded world: what they hold, how they are drawn, and to which split they belong.

Sizes are multiples of 28 pixels, so that each bar and each card covers exactly two of six image tokens.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

Split = Literal["train", "validation", "test"]
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (220, 40, 40),
    "blue": (40, 80, 220),
    "green": (40, 170, 70),
    "yellow": (240, 200, 40),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle")
BACKGROUND: Colour = (255, 255, 255)
FRAME: Colour = (150, 150, 150)

CELL = 28
"""Side of one image token, and width of a column, pixels."""
MARGIN = 4
"""Free pixels between a bar or shape and the edge of its column."""
NUM_PARTS = 3
"""Bars of a chart, cards of a row."""
MAX_NUMBER = 6
"""Highest bar, and most dots of one card."""
UNIT = 8
"""Pixels of one unit of a bar's height."""
SHAPE_SIDE = CELL - 2 * MARGIN
"""Width and height of a card's shape, pixels."""
DOT_SIDE = 6
"""Width and height of a dot, pixels."""
FRAME_WIDTH = 2
"""Pixels. The frame also tells a model that sees cell by cell where in the picture each cell lies."""
BAR_FLOOR = 2 * CELL - FRAME_WIDTH
"""First pixel row below the bars: the frame's lower side."""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars from left to right, each of another colour and another height from 1 to 6."""

    bars: tuple[tuple[str, int], ...]

    @property
    def numbers(self) -> dict[str, int]:
        """Height by colour."""
        return dict(self.bars)

    @property
    def words(self) -> str:
        """All that the chart shows, for example `red 4 . blue 2 . green 5 .`."""
        return " ".join(f"{colour} {height} ." for colour, height in self.bars)

    def draw(self) -> Image.Image:
        """Return the chart, 84 x 56 pixels."""
        image, canvas = _framed_canvas()
        for column, (colour, height) in enumerate(self.bars):
            left, top = column * CELL + MARGIN, BAR_FLOOR - UNIT * height
            canvas.rectangle((left, top, left + CELL - 2 * MARGIN - 1, BAR_FLOOR - 1), fill=COLOURS[colour])
        return image


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards from left to right, each a shape above 1 to 6 dots of its colour; colours, shapes and numbers all differ."""

    cards: tuple[tuple[str, str, int], ...]

    @property
    def numbers(self) -> dict[str, int]:
        """Number of dots by colour."""
        return {colour: number for colour, _, number in self.cards}

    @property
    def words(self) -> str:
        """All that the cards show, for example `red circle 4 . blue square 2 . green triangle 1 .`."""
        return " ".join(f"{colour} {shape} {number} ." for colour, shape, number in self.cards)

    def draw(self) -> Image.Image:
        """Return the cards, 84 x 56 pixels."""
        image, canvas = _framed_canvas()
        for column, (colour, shape, number) in enumerate(self.cards):
            _draw_shape(canvas, shape, colour, column * CELL + MARGIN, MARGIN)
            for slot in range(number):
                left, top = dot_corner(column, slot)
                canvas.ellipse((left, top, left + DOT_SIDE - 1, top + DOT_SIDE - 1), fill=COLOURS[colour])
        return image


Figure = BarChart | Cards


def dot_corner(column: int, slot: int) -> tuple[int, int]:
    """Return the upper left pixel of a dot: two rows of three in the lower half of each card, filled row by row."""
    row, place = divmod(slot, 3)
    return column * CELL + MARGIN + place * (DOT_SIDE + 1), CELL + MARGIN + row * (DOT_SIDE + 4)


def _framed_canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty picture of three columns with a frame, and the pen that draws on it."""
    image = Image.new("RGB", (NUM_PARTS * CELL, 2 * CELL), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, image.width - 1, image.height - 1), outline=FRAME, width=FRAME_WIDTH)
    return image, canvas


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: str, colour: str, left: int, top: int) -> None:
    right, bottom = left + SHAPE_SIDE - 1, top + SHAPE_SIDE - 1
    if shape == "circle":
        canvas.ellipse((left, top, right, bottom), fill=COLOURS[colour])
    elif shape == "square":
        canvas.rectangle((left, top, right, bottom), fill=COLOURS[colour])
    else:
        canvas.polygon(((left, bottom), (right, bottom), ((left + right) // 2, top)), fill=COLOURS[colour])


def random_chart(rng: Random) -> BarChart:
    """Return a chart of three bars, all colours and heights different."""
    heights = rng.sample(range(1, MAX_NUMBER + 1), NUM_PARTS)
    return BarChart(tuple(zip(rng.sample(list(COLOURS), NUM_PARTS), heights, strict=True)))


def random_cards(rng: Random) -> Cards:
    """Return three cards, all colours, shapes and numbers different."""
    numbers = rng.sample(range(1, MAX_NUMBER + 1), NUM_PARTS)
    return Cards(tuple(zip(rng.sample(list(COLOURS), NUM_PARTS), rng.sample(SHAPES, NUM_PARTS), numbers, strict=True)))


def split_of(figure: Figure) -> Split:
    """Return the split to which a figure belongs by a hash of what it shows: 80 % train, 10 % validation, 10 % test."""
    bucket = hashlib.sha256(figure.words.encode()).digest()[0]
    if bucket < 26:
        return "test"
    return "validation" if bucket < 52 else "train"


def save_figure(figure: Figure, folder: Path) -> str:
    """Return the path of the figure's PNG in `folder`, drawn if it is not there yet; equal figures share one file."""
    path = folder / f"{hashlib.sha256(figure.words.encode()).hexdigest()[:16]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        figure.draw().save(path)
    return str(path)


def read_figure(image: Image.Image) -> Figure | None:
    """Return what a picture of this world shows, read from its pixels alone; None for any other picture."""
    picture = image.convert("RGB")
    if picture.size != (NUM_PARTS * CELL, 2 * CELL) or picture.getpixel((0, 0)) != FRAME:
        return None
    stands_on_floor = any(picture.getpixel((x, BAR_FLOOR - 1)) != BACKGROUND for x in range(FRAME_WIDTH, picture.width - FRAME_WIDTH))
    return _read_chart(picture) if stands_on_floor else _read_cards(picture)


def _read_chart(picture: Image.Image) -> BarChart | None:
    """Return the bars by the colour at each column's floor and the pixels above it that have the same colour."""
    bars = []
    for column in range(NUM_PARTS):
        middle = column * CELL + CELL // 2
        floor = picture.getpixel((middle, BAR_FLOOR - 1))
        height = sum(1 for row in range(BAR_FLOOR) if picture.getpixel((middle, row)) == floor)
        colour = _colour_name(floor)
        if colour is None:
            return None
        bars.append((colour, round(height / UNIT)))
    return BarChart(tuple(bars))


def _read_cards(picture: Image.Image) -> Cards | None:
    """Return the cards by the colour in the middle of each shape, the corners that the shape fills, and the dots that are there."""
    cards = []
    for column in range(NUM_PARTS):
        left, top, side = column * CELL + MARGIN, MARGIN, SHAPE_SIDE - 1
        colour = _colour_name(picture.getpixel((left + side // 2, top + side // 2)))
        if colour is None:
            return None
        is_top_filled = picture.getpixel((left, top)) != BACKGROUND
        is_bottom_filled = picture.getpixel((left, top + side)) != BACKGROUND
        shape = "square" if is_top_filled else "triangle" if is_bottom_filled else "circle"
        dots = [dot_corner(column, slot) for slot in range(MAX_NUMBER)]
        number = sum(1 for x, y in dots if picture.getpixel((x + DOT_SIDE // 2, y + DOT_SIDE // 2)) == COLOURS[colour])
        cards.append((colour, shape, number))
    return Cards(tuple(cards))


def _colour_name(pixel: object) -> str | None:
    """Return the name of an exact colour of the palette, None for any other."""
    return next((name for name, value in COLOURS.items() if value == pixel), None)
