"""Compares pictures by the file, by the decoded pixels, and by a thumbnail that survives scaling and re-encoding."""

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
"""Number of fields of a thumbnail in each direction."""
MAX_DIFFERENCE = 24
"""Upper bound on the difference of a field, out of 255, between two encodings or scales of the same picture. JPEG at quality 75 or half the
size moves a field's mean by at most 24 (300 tables of TabMWP). A bar that is a unit longer, or of another colour, moves its fields by 58 or
more."""
MAX_DIFFERENCE_SHARE = 0.4
"""The same bound as a share of the contrast. It matters in drawings of thin lines."""
MIN_CONTRAST = 24
"""Smallest difference between the darkest and the brightest colour of the fields. With less a picture is nearly blank and equals no
other."""
MAX_RATIO_ERROR = 0.03
"""Upper bound on the relative difference of the sides' ratios. Rounding to whole pixels moves them by less."""
MAX_PIXELS = 2**24
"""Upper bound on the decoded pixels of a picture. Within it, pictures are compared at full size."""


def content_digest(source: ImageSource) -> str:
    """Return the SHA-256 of the encoded picture, wherever its file lies."""
    return hashlib.sha256(image_bytes(source)).hexdigest()


def pixel_digest(image: Image.Image) -> str | None:
    """Return the SHA-256 of size and RGB pixels, for any encoding. None for a picture of a single colour, which identifies nothing."""
    if all(low == high for low, high in np.asarray(image.getextrema()).reshape(-1, 2).tolist()):
        return None
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Look:
    """The thumbnail of a picture."""

    ratio: float
    """Width over height."""
    fields: NDArray[np.int16] | None
    """(10, 10, 3) mean colours of the fields of the picture; None for a nearly blank picture."""


def look(image: Image.Image) -> Look:
    """Return the thumbnail of an RGB picture."""
    fields = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.int16)
    has_content = int(fields.max()) - int(fields.min()) >= MIN_CONTRAST
    return Look(image.width / image.height, fields if has_content else None)


def look_alike(first: Look, second: Look) -> bool:
    """Return whether two pictures are the same picture, scaled or encoded differently."""
    if first.fields is None or second.fields is None or abs(first.ratio / second.ratio - 1) > MAX_RATIO_ERROR:
        return False
    contrast = int(first.fields.max()) - int(first.fields.min())
    return int(np.abs(first.fields - second.fields).max()) <= min(MAX_DIFFERENCE, MAX_DIFFERENCE_SHARE * contrast)


def size(source: ImageSource, problem_id: str) -> tuple[int, int]:
    """Return width and height from the file's header, without decoding it. Raises DataError that names the problem if it cannot be read."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"problem {problem_id}: a picture cannot be read any more: {error}") from error


def picture(source: ImageSource, problem_id: str) -> Image.Image:
    """Return the decoded picture. Raises DataError that names the problem if it cannot be read."""
    return load_image(source, MAX_PIXELS, problem_id)
