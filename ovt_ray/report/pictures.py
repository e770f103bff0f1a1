"""Images inside a page. They are decoded and encoded again, since an image of a run is as untrusted as its text."""

import base64
import io
from dataclasses import dataclass

from ovt_ray.core.images import image_fault
from ovt_ray.core.types import ImageSource

MAX_SHOWN_PIXELS = 640
"""Longer side of an image in the page, in pixels."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a page, or the reason why it cannot be shown."""

    url: str
    """Data URL of a PNG; empty if there is a fault."""
    fault: str = ""


def picture(source: ImageSource) -> Picture:
    """Return an image as the page shows it."""
    from PIL import Image

    if fault := image_fault(source):
        return Picture(url="", fault=fault)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        shown = image.convert("RGB")
    shown.thumbnail((MAX_SHOWN_PIXELS, MAX_SHOWN_PIXELS))
    encoded = io.BytesIO()
    shown.save(encoded, "PNG", optimize=True)
    return Picture(url=png_url(encoded.getvalue()))


def png_url(content: bytes) -> str:
    """Return a PNG as a data URL, for which a page needs no server."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
