"""Pictures as what can be compared: the file, the decoded pixels, and a thumbnail that survives scaling and another encoding."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovt_ray.core.errors import DataError
from ovt_ray.core.images import image_bytes
from ovt_ray.core.prompts import load_image
from ovt_ray.core.types import ImageSource

SIDE = 10
"""Fields of a thumbnail in each direction."""
MAX_DIFFERENCE = 24
"""Largest difference of one field, of 255, between two encodings or scales of one picture. Means over a field move by at most 24 with JPEG
at quality 75 or half the size (300 tables of TabMWP); a bar one unit longer, or of another colour, moves those it covers by 58 and more."""
MAX_DIFFERENCE_SHARE = 0.4
"""The same as a share of the contrast, which binds in drawings of thin lines."""
MIN_CONTRAST = 24
"""A picture with less between the darkest and brightest colour of its fields is as good as blank, and like no other."""
MAX_RATIO_ERROR = 0.03
"""Largest difference of the ratios of the sides; rounding to whole pixels moves them by less."""
MAX_PIXELS = 2**24
"""Pictures are compared at full size, within the bound of what is decoded."""


def content_digest(source: ImageSource) -> str:
    """Return the SHA-256 of the encoded picture, wherever its file lies."""
    return hashlib.sha256(image_bytes(source)).hexdigest()


def pixel_digest(image: Image.Image) -> str | None:
    """Return the SHA-256 of size and RGB pixels, whatever the encoding; None for a picture of one colour, which tells nothing."""
    if all(low == high for low, high in np.asarray(image.getextrema()).reshape(-1, 2).tolist()):
        return None
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Look:
    """What is left of a picture when it is small."""

    ratio: float
    """Width over height."""
    fields: NDArray[np.int16] | None
    """(10, 10, 3) mean colours of the fields of the picture; None for one that is as good as blank."""


def look(image: Image.Image) -> Look:
    """Return how an RGB picture looks."""
    fields = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.int16)
    has_content = int(fields.max()) - int(fields.min()) >= MIN_CONTRAST
    return Look(image.width / image.height, fields if has_content else None)


def look_alike(first: Look, second: Look) -> bool:
    """Return whether two pictures are one, scaled or encoded in another way."""
    if first.fields is None or second.fields is None or abs(first.ratio / second.ratio - 1) > MAX_RATIO_ERROR:
        return False
    contrast = int(first.fields.max()) - int(first.fields.min())
    return int(np.abs(first.fields - second.fields).max()) <= min(MAX_DIFFERENCE, MAX_DIFFERENCE_SHARE * contrast)


def size(source: ImageSource, problem_id: str) -> tuple[int, int]:
    """Return width and height as the file states them, without decoding it. Raises DataError naming the problem if it cannot be read."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"problem {problem_id}: a picture cannot be read any more: {error}") from error


def picture(source: ImageSource, problem_id: str) -> Image.Image:
    """Return the decoded picture. Raises DataError naming the problem if it cannot be read."""
    return load_image(source, MAX_PIXELS, problem_id)
