"""Reads data sets as they are published, and writes the small JSON files and pictures that stand for them."""

import io
import json
from pathlib import Path

from PIL import Image

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Split, format_rows


def read(name: str, path: Path, split: Split = "train") -> tuple[list[Problem], list[str]]:
    """The problems of a split and the messages of the rows that make none."""
    problems, messages = [], []
    for place, make in format_rows(name, path, split):
        try:
            problems.append(make())
        except DataError as error:
            messages.append(f"{place}: {error}")
    return problems, messages


def picture(path: Path, colour: str = "red") -> Path:
    """A small picture, written to a path whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))
    return path


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
