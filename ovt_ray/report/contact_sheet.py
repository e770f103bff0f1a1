"""A picture of some problems: their images in a grid, with question and gold answer below."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ovt_ray.core.files import write_atomically
from ovt_ray.core.prompts import shown_text
from ovt_ray.core.types import ImageSource, Problem

NUM_COLUMNS = 4
PICTURE = (300, 220)
"""Width and height, in pixels, that a problem's images share."""
MAX_PICTURES = 10
"""Largest number of a problem's images that are shown. More would be too narrow to see."""
NUM_LINES, LINE_CHARS, LINE_HEIGHT = 8, 46, 15
"""Size of the text below the images: lines, characters of a line, pixels of a line."""
MARGIN = 10
CELL = (PICTURE[0] + 2 * MARGIN, PICTURE[1] + NUM_LINES * LINE_HEIGHT + 3 * MARGIN)


def write_contact_sheet(path: Path, problems: Sequence[Problem]) -> None:
    """Write a PNG file with a cell for each problem, row by row."""
    num_rows = -(-len(problems) // NUM_COLUMNS)
    sheet = Image.new("RGB", (CELL[0] * min(len(problems), NUM_COLUMNS), CELL[1] * num_rows), "white")
    for number in range(len(problems)):
        row, column = divmod(number, NUM_COLUMNS)
        sheet.paste(_cell(problems[number]), (column * CELL[0], row * CELL[1]))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    write_atomically(path, encoded.getvalue())


def _cell(problem: Problem) -> Image.Image:
    cell = Image.new("RGB", CELL, "white")
    pen = ImageDraw.Draw(cell)
    pen.rectangle((2, 2, CELL[0] - 3, CELL[1] - 3), outline="lightgrey")
    pictures = problem.images[:MAX_PICTURES]
    width = PICTURE[0] // max(1, len(pictures))
    for number, source in enumerate(pictures):
        cell.paste(_thumbnail(source, (width, PICTURE[1])), (MARGIN + number * width, MARGIN))
    for number, line in enumerate(_lines(problem)):
        is_answer = number == 0
        place = (MARGIN, 2 * MARGIN + PICTURE[1] + number * LINE_HEIGHT)
        pen.text(place, line, fill="darkgreen" if is_answer else "black", font=ImageFont.load_default(12))
    return cell


def _lines(problem: Problem) -> list[str]:
    """Return the text of a cell. The answer comes first, so that a long question cannot hide it."""
    answer = textwrap.shorten(f"[{problem.kind.value}] {problem.answer} {problem.unit}", LINE_CHARS, placeholder=" ...")
    name = textwrap.shorten(f"{problem.source or '-'} / {problem.id}", LINE_CHARS, placeholder=" ...")
    return [answer, name, *textwrap.wrap(shown_text(problem), LINE_CHARS, max_lines=NUM_LINES - 2, placeholder=" ...")]


def _thumbnail(source: ImageSource, size: tuple[int, int]) -> Image.Image:
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        shown = image.convert("RGB")
    shown.thumbnail(size)
    return shown
