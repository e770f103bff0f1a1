"""The images of problems in the form that an engine takes: named by their content, and decoded once if they are shown again."""

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ovt_ray.core.images import image_bytes
from ovt_ray.core.prompts import load_image
from ovt_ray.core.types import ImageSource, Problem

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT_BYTES = 2**28
"""Bytes of the pixels that a worker keeps: 340 images of 512 x 512 pixels."""


class DecodedImages:
    """Decodes images, and keeps the most recently shown images. Threads may share it."""

    def __init__(self, max_pixels: int, kept_bytes: int = KEPT_BYTES) -> None:
        self._max_pixels = max_pixels
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, Image] = OrderedDict()
        """Decoded images by name; the image that was shown last is at the end."""
        self._lock = threading.Lock()

    def of(self, problem: Problem) -> "list[tuple[str, Image]]":
        """Return the problem's images in order, RGB of at most `max_pixels` pixels, each with the SHA-256 of its encoded bytes.

        Raises OSError or DataError naming the file if one cannot be read or decoded.
        """
        return [self._named(source, problem.id) for source in problem.images]

    def _named(self, source: ImageSource, problem_id: str) -> "tuple[str, Image]":
        content = image_bytes(source)
        name = hashlib.sha256(content).hexdigest()
        with self._lock:
            if (image := self._kept.get(name)) is not None:
                self._kept.move_to_end(name)
                return name, image
        image = load_image(source, self._max_pixels, problem_id)
        with self._lock:
            self._kept[name] = image
            while sum(map(num_bytes, self._kept.values())) > self._kept_bytes:
                self._kept.popitem(last=False)
        return name, image


def num_bytes(image: "Image") -> int:
    """Return the bytes of an RGB image's pixels."""
    return 3 * image.width * image.height
