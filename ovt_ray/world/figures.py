"""The figures of the embedded world: their contents, their drawing and their split.

Sizes are multiples of 28 pixels, so that a bar's column covers two image tokens and a shape's cell exactly one token.
"""

import hashlib
import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

from ovt_ray.core.images import write_image

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
"""Side of an image token in pixels."""
MARGIN = 4
"""Free pixels between a bar or shape and the edge of its column or cell."""
NUM_BARS = 3
MAX_HEIGHT = 6
UNIT = 8
"""Pixels per unit of a bar's height."""
FRAME_WIDTH = 2
"""Width of the frame in pixels. A model that sees cell by cell also finds each cell's position by it."""
BAR_FLOOR = 2 * CELL - FRAME_WIDTH
"""First pixel row below the bars, which is the frame's lower side."""
GRID = 2
"""Number of rows and of columns in a grid of shapes."""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars from left to right, with different colours and different heights from 1 to 6."""

    bars: tuple[tuple[str, int], ...]

    @property
    def words(self) -> str:
        """The readings as text, for example `red 4 . blue 2 . green 5 .`."""
        return " ".join(f"{colour} {height} ." for colour, height in self.bars)

    def draw(self) -> Image.Image:
        """Return the chart, 84 x 56 pixels."""
        image, canvas = _framed_canvas(NUM_BARS, 2)
        for column, (colour, height) in enumerate(self.bars):
            left, top = column * CELL + MARGIN, BAR_FLOOR - UNIT * height
            canvas.rectangle((left, top, left + CELL - 2 * MARGIN - 1, BAR_FLOOR - 1), fill=COLOURS[colour])
        return image


@dataclass(frozen=True, slots=True)
class ShapeGrid:
    """Two rows of two coloured shapes, read row by row."""

    cells: tuple[tuple[str, str], ...]

    @property
    def words(self) -> str:
        """The readings as text, for example `red circle . blue square . red square . black circle .`."""
        return " ".join(f"{colour} {shape} ." for colour, shape in self.cells)

    def draw(self) -> Image.Image:
        """Return the grid, 56 x 56 pixels."""
        image, canvas = _framed_canvas(GRID, GRID)
        for position, (colour, shape) in enumerate(self.cells):
            row, column = divmod(position, GRID)
            left, top = column * CELL + MARGIN, row * CELL + MARGIN
            right, bottom = left + CELL - 2 * MARGIN - 1, top + CELL - 2 * MARGIN - 1
            if shape == "circle":
                canvas.ellipse((left, top, right, bottom), fill=COLOURS[colour])
            elif shape == "square":
                canvas.rectangle((left, top, right, bottom), fill=COLOURS[colour])
            else:
                canvas.polygon(((left, bottom), (right, bottom), ((left + right) // 2, top)), fill=COLOURS[colour])
        return image


Figure = BarChart | ShapeGrid


def _framed_canvas(num_columns: int, num_rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty picture of the given cells with a frame, and the pen that draws on it."""
    image = Image.new("RGB", (num_columns * CELL, num_rows * CELL), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, image.width - 1, image.height - 1), outline=FRAME, width=FRAME_WIDTH)
    return image, canvas


def random_chart(rng: Random) -> BarChart:
    """Return a chart of three bars with different colours and different heights."""
    colours = rng.sample(list(COLOURS), NUM_BARS)
    heights = rng.sample(range(1, MAX_HEIGHT + 1), NUM_BARS)
    return BarChart(tuple(zip(colours, heights, strict=True)))


def random_grid(rng: Random) -> ShapeGrid:
    """Return a grid of shapes in at most three colours, so that colours repeat."""
    colours = rng.sample(list(COLOURS), 3)
    return ShapeGrid(tuple((rng.choice(colours), rng.choice(SHAPES)) for _ in range(GRID * GRID)))


def split_of(figure: Figure) -> Split:
    """Return the split of a figure, by a hash of its readings: 80 % train, 10 % validation, 10 % test."""
    bucket = hashlib.sha256(figure.words.encode()).digest()[0]
    if bucket < 26:
        return "test"
    return "validation" if bucket < 52 else "train"


def save_figure(figure: Figure, folder: Path) -> str:
    """Return the path of the figure's PNG in `folder`. Draws the file if it is missing. Equal figures share a file."""
    path = folder / f"{hashlib.sha256(figure.words.encode()).hexdigest()[:16]}.png"
    if not path.exists():
        drawn = io.BytesIO()
        figure.draw().save(drawn, format="PNG")
        write_image(path, drawn.getvalue())
    return str(path)


def read_figure(image: Image.Image) -> Figure | None:
    """Return the figure in a picture of this world, read from its pixels alone; None for any other picture."""
    picture = image.convert("RGB")
    if picture.size == (NUM_BARS * CELL, 2 * CELL) and picture.getpixel((0, BAR_FLOOR)) == FRAME:
        return _read_chart(picture)
    if picture.size == (GRID * CELL, GRID * CELL):
        return _read_grid(picture)
    return None


def _read_chart(picture: Image.Image) -> BarChart | None:
    """Return the bars, by the colour at each column's floor and the number of pixels above it with the same colour."""
    bars = []
    for column in range(NUM_BARS):
        middle = column * CELL + CELL // 2
        floor = picture.getpixel((middle, BAR_FLOOR - 1))
        height = sum(1 for row in range(BAR_FLOOR) if picture.getpixel((middle, row)) == floor)
        colour = _colour_name(floor)
        if colour is None:
            return None
        bars.append((colour, round(height / UNIT)))
    return BarChart(tuple(bars))


def _read_grid(picture: Image.Image) -> ShapeGrid | None:
    """Return the shapes, by each cell's centre colour and the filled corners of its inner square."""
    cells = []
    for row, column in itertools.product(range(GRID), repeat=2):
        left, top = column * CELL + MARGIN, row * CELL + MARGIN
        side = CELL - 2 * MARGIN - 1
        colour = _colour_name(picture.getpixel((left + side // 2, top + side // 2)))
        if colour is None:
            return None
        is_top_filled = picture.getpixel((left, top)) != BACKGROUND
        is_bottom_filled = picture.getpixel((left, top + side)) != BACKGROUND
        cells.append((colour, "square" if is_top_filled else "triangle" if is_bottom_filled else "circle"))
    return ShapeGrid(tuple(cells))


def _colour_name(pixel: object) -> str | None:
    """Return the name of an exact colour of the palette; None for any other colour."""
    return next((name for name, value in COLOURS.items() if value == pixel), None)
