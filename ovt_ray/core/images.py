"""The rules that an image must keep, and the facts recorded about an image that keeps them."""

import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import TypeGuard

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import ImageSource

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_IMAGE_PIXELS = 64 * 2**20
"""Upper bound on the pixels that a header may promise. It is checked before decoding, as a few bytes can request all memory."""
MAX_IMAGE_BYTES = 512 * 2**20
"""Upper bound on the bytes of a file, checked before reading. An uncompressed image of `MAX_IMAGE_PIXELS` is shorter."""
MAX_ASPECT_RATIO = 200
"""Upper bound on the ratio of an image's sides. Qwen2.5-VL's image processor refuses longer or wider images."""
MAX_REMEMBERED = 40_000
"""Upper bound on the facts in memory, two per image. They let an image that many problems share be read and decoded once."""


class BadImage(DataError):
    """An image of a row, here or at an address, cannot be used."""

    def __init__(self, message: str, source: ImageSource) -> None:
        super().__init__(message)
        self.source = source


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Facts of an image that was decoded as a whole."""

    sha256: str
    """Hash of the stored bytes."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    suffix: str
    """Suffix of the image's file: `png`, `jpeg`, ..."""


_remembered: dict[str | tuple[str, int, int], ImageFacts] = {}
"""Facts by the SHA-256 of the bytes, and by path, size and time of the file."""


def is_address(source: ImageSource) -> TypeGuard[str]:
    """Return whether an image is at a web address. It is fetched when problems are first read, and is a path from then on."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def image_facts(source: ImageSource) -> ImageFacts:
    """Return the facts of an image after decoding all of it. Raises DataError with its path, the fault and the fix."""
    if isinstance(source, bytes):
        return _facts(f"an image of {len(source)} bytes", source)
    state = _state(source)
    if (facts := _remembered.get(state)) is None:
        facts = _facts(repr(source), _read(source))
        _remember(state, facts)
    return facts


def _facts(name: str, content: bytes) -> ImageFacts:
    digest = hashlib.sha256(content).hexdigest()
    if (facts := _remembered.get(digest)) is None:
        facts = _decode(name, content, digest)
        _remember(digest, facts)
    return facts


def _remember(key: str | tuple[str, int, int], facts: ImageFacts) -> None:
    if len(_remembered) >= MAX_REMEMBERED:
        _remembered.clear()
    _remembered[key] = facts


def image_fault(source: ImageSource) -> str | None:
    """Return the reason why an image cannot be used, with its path, or None after decoding all of it."""
    try:
        image_facts(source)
    except DataError as error:
        return str(error)
    return None


def store_image(content: bytes, facts: ImageFacts, folder: Path) -> str:
    """Return the path of a file with these bytes, `<sha256>.<suffix>` in the folder. Writes the file if it is missing."""
    path = folder / f"{facts.sha256}.{facts.suffix}"
    if not path.exists() or path.stat().st_size != len(content):
        write_image(path, content)
    return str(path)


def write_image(path: Path, content: bytes) -> None:
    """Write an image in one step, so that no other thread or process opens half a file; its folder is created if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}.tmp")
    scratch.write_bytes(content)
    os.replace(scratch, path)


def image_bytes(source: ImageSource) -> bytes:
    """Return the encoded image, read from its file where the source is a path."""
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _state(path: str) -> tuple[str, int, int]:
    """Return path, size and time, which distinguish the file from others and from itself after a change."""
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path!r}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path!r}: cannot be read ({error})") from error
    if state.st_size > MAX_IMAGE_BYTES:
        raise DataError(f"{path!r}: {state.st_size:,} bytes, more than {MAX_IMAGE_BYTES:,}; scale it down")
    return path, state.st_size, state.st_mtime_ns


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path!r}: cannot be read ({error.strerror}); give access") from error


def _decode(name: str, content: bytes, digest: str) -> ImageFacts:
    from PIL import Image

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)

    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning), opened() as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise DataError(f"{name}: {width} x {height} pixels, more than {MAX_IMAGE_PIXELS:,}; scale it down")
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise DataError(f"{name}: {width} x {height} pixels, sides in a ratio above {MAX_ASPECT_RATIO}; crop or pad it")
            suffix = (image.format or "image").lower()
            image.verify()  # checksums; leaves the image unusable
        with opened() as image:
            image.load()  # notices a truncated file, which verify does not for every format
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a readable {', '.join(IMAGE_FORMATS)} image ({error})") from error
    return ImageFacts(sha256=digest, width=width, height=height, suffix=suffix)
