"""Files of rows in JSON lines, with the picture that they name, and bytes of pictures that are sound or claim a false size."""

import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image


def encoded(colour: str, size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    """Return a picture of one colour as the bytes of a file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def png_header_of(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims this size."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(body)) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded("red")[33:]


def row(**changes: object) -> dict[str, object]:
    """Return a row that makes a problem, with these fields changed."""
    return {"id": "q1", "question": "How many?", "images": ["a.png"], "answer": "4"} | changes


def write_rows(folder: Path, *rows: dict[str, object] | str) -> Path:
    """Write `rows.jsonl`, and the picture that `row` names, into the folder; return the path of the rows."""
    (folder / "a.png").write_bytes(encoded("red"))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in rows))
    return path
