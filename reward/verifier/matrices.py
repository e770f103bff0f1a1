r"""Reads a LaTeX matrix into rows of entries. Its brackets do not matter, but `vmatrix` is a determinant and no matrix."""

import re

from reward.verifier.clean import restored

_MATRIX = re.compile(r"(?:pmatrix|bmatrix|Bmatrix|matrix|smallmatrix|array)")
_BEGIN, _END = re.compile(r"\\begin\{(\w+)\}(?:\{[lcr| ]{1,20}\})?"), re.compile(r"\\end\{(\w+)\}")
_AROUND = re.compile(r"\$|\\left *[\[(.]|\\right *[\])]|\\[\[\]()]")
_MAX_ENTRIES = 100

Matrix = tuple[tuple[str, ...], ...]


def read_matrix(text: str) -> Matrix | None:
    r"""Return the entries of a text that is `\begin{pmatrix} ... \end{pmatrix}` or the like; None if it is not."""
    if "\\begin" not in text:
        return None
    text = restored(text)
    begin, end = _BEGIN.search(text), _END.search(text)
    if begin is None or end is None or begin[1] != end[1] or not _MATRIX.fullmatch(begin[1]):
        return None
    around = text[: begin.start()] + text[end.end() :]
    if _AROUND.sub("", around).strip(" .[]()"):
        return None
    rows = [row for row in text[begin.end() : end.start()].split("\\\\") if row.strip()]
    matrix = tuple(tuple(entry.strip() for entry in row.split("&")) for row in rows)
    return matrix if 0 < sum(map(len, matrix)) <= _MAX_ENTRIES else None


def same_shape(first: Matrix, second: Matrix) -> bool:
    """Return whether two matrices have the same numbers of rows and columns."""
    return [len(row) for row in first] == [len(row) for row in second]
