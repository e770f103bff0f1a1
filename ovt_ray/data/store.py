"""Reads and checks problems once: rows become an Arrow file, which later starts map.

    runs/.problems/<key>/problems.arrow   the problems of a split of a data set; bad.json has the rows that make no problem
    runs/.problems/images/                images that came as bytes or were fetched, by their content
    runs/.problems/fetched/               links to fetched images, by their address

The key is a hash of format, path, sizes and times of the files, hosts of images, and the code that reads them. If an image has changed
since, all rows are read again. The folder may be deleted while nothing runs.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ovt_ray.core.errors import DataError
from ovt_ray.core.images import BadImage, image_facts, is_address, store_image
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split, files_read, format_rows
from ovt_ray.data.remote_images import RemoteImages
from ovt_ray.data.rows import LeftOut
from ovt_ray.data.table import COLUMNS, SCHEMA, BadRow, ProblemSet, open_table

ROWS_PER_BATCH = 2048
"""Number of rows in a batch of the Arrow file."""
MAX_THREADS = 16
"""Upper bound on the threads. More threads would wait for the thread that parses rows."""
MAX_FETCHES = 8
"""Number of threads where images may be fetched. They mostly wait for a server, which they must not overload."""
ROWS_AHEAD = 8
"""Number of rows in progress per thread."""
SECONDS_BETWEEN_LINES = 2.0

logger = logging.getLogger(__name__)


Made = tuple[dict[str, Any], None] | tuple[None, BadRow]


def problem_set(
    format_name: str, path: Path, split: Split, folder: Path, *, image_hosts: Sequence[str] = (), tries_again: bool = False
) -> ProblemSet:
    """Return the problems of a split, from `folder` if they were read before. Else read and check them, and keep them there.

    Images are fetched only from `image_hosts`. With `tries_again` images whose fetching failed before are tried again.
    """
    home = folder / _key(format_name, path, split, image_hosts)
    found = _opened(home)
    if found is None or (tries_again and any(is_address(row.image) for row in found.bad)):
        return keep(format_rows(format_name, path, split), str(path), home, image_hosts)
    return found


def keep(rows: Iterable[Row], name: str, home: Path, image_hosts: Sequence[str] = ()) -> ProblemSet:
    """Return the problems of rows, kept in the folder `home`, which appears whole or not at all. `name` is for the progress."""
    # Named by the process: two runs may read the same data side by side.
    scratch = home.with_name(f".{home.name}.{os.getpid()}.tmp")
    remote = RemoteImages(image_hosts, home.parent)
    remote.images.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    num_threads = MAX_FETCHES if image_hosts else min(MAX_THREADS, os.cpu_count() or 1)
    try:
        bad = _write(scratch / "problems.arrow", _shown(_made(rows, remote, num_threads), name, remote))
        (scratch / "bad.json").write_text(json.dumps([asdict(row) for row in bad]))
        shutil.rmtree(home, ignore_errors=True)  # a rename replaces no folder with files in it
        try:
            # When both files are whole: another process may open the folder at any moment.
            scratch.rename(home)
        except OSError:  # another process wrote the same folder first
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _read(home)


def stamp(path: str) -> int:
    """Return a number that changes with the file's size or time; 0 for no file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # such as a null byte in an address
        return 0
    return (state.st_mtime_ns ^ state.st_size << 1) or 1


def _opened(home: Path) -> ProblemSet | None:
    """Return the problems that `keep` wrote. None if they cannot be read or an image has changed since."""
    if not (home / "bad.json").is_file():
        return None
    try:
        problems = _read(home)
    except (OSError, ValueError, pa.ArrowException):  # for example after a power failure: the rows are read again
        return None
    noted = dict(_noted(problems)) | {row.image: row.image_stamp for row in problems.bad if row.image}
    # Size and hash in the table would no longer be those of the image.
    changed = [path for path, before in noted.items() if stamp(path) != before]
    if changed:
        more = f" and {len(changed) - 1} more images" if changed[1:] else ""
        logger.info("%s%s changed: reading the problems again", changed[0], more)
    return None if changed else problems


def _read(home: Path) -> ProblemSet:
    bad = [BadRow(**row) for row in json.loads((home / "bad.json").read_text())]
    return ProblemSet(open_table(home / "problems.arrow"), bad)


def _noted(problems: ProblemSet) -> Iterator[tuple[str, int]]:
    """Yield each image's path and its stamp at the check."""
    for paths, stamps in zip(problems.column("images"), problems.column("image_stamps"), strict=True):
        yield from zip(paths, stamps, strict=True)


def _made(rows: Iterable[Row], remote: RemoteImages, num_threads: int) -> Iterator[tuple[str, Made]]:
    """Yield each row's place and its result, in order. Threads fetch and decode images, a few rows ahead."""
    waiting: deque[tuple[str, Future[Made]]] = deque()
    with ThreadPoolExecutor(num_threads, "problems") as threads:
        try:
            for place, make in rows:
                waiting.append((place, threads.submit(_make, place, make, remote)))
                if len(waiting) > ROWS_AHEAD * num_threads:
                    earliest, future = waiting.popleft()
                    yield earliest, future.result()
            # In order, whichever thread ends first: of two rows with one id, the later is the bad one on every run.
            for place, future in waiting:
                yield place, future.result()
        finally:  # a consumer that stops early does not wait for pending fetches
            threads.shutdown(wait=False, cancel_futures=True)


def _make(place: str, make: Callable[[], Problem], remote: RemoteImages) -> Made:
    """Return the values of a row's problem, with its images stored as files, or the reason why it has none."""
    try:
        problem = make()
        sources = remote.local(problem.images)
        facts = [image_facts(source) for source in sources]
    except DataError as error:
        source = error.source if isinstance(error, BadImage) else None
        path = source if isinstance(source, str) else ""
        message = f"{place}: {error}"
        return None, BadRow(message=message, is_left_out=isinstance(error, LeftOut), image=path, image_stamp=stamp(path) if path else 0)
    paths = [
        store_image(source, fact, remote.images) if isinstance(source, bytes) else source
        for source, fact in zip(sources, facts, strict=True)
    ]
    values = {name: getattr(problem, name) for name in COLUMNS.names} | {
        "images": paths,
        "kind": problem.kind.value,
        "place": place,
        "image_hashes": [bytes.fromhex(fact.sha256) for fact in facts],
        "image_widths": [fact.width for fact in facts],
        "image_heights": [fact.height for fact in facts],
        "image_stamps": [stamp(path) for path in paths],
        "num_fetched": sum(map(is_address, problem.images)),
    }
    return values, None


def _write(path: Path, made: Iterable[tuple[str, Made]]) -> list[BadRow]:
    """Write the problems of the rows, and return the rows that make no problem or repeat an id."""
    bad: list[BadRow] = []
    place_of: dict[str, str] = {}
    batch: list[dict[str, Any]] = []
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for place, (values, fault) in made:
            if values is None:
                assert fault is not None
                bad.append(fault)
            elif (id := values["id"]) in place_of:
                message = f"{place}: id: {id!r} is also the id of {place_of[id]}; ids must differ"
                bad.append(BadRow(message=message, is_left_out=False))
            else:
                place_of[id] = place
                batch.append(values)
            if len(batch) == ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
    return bad


def _shown(made: Iterable[tuple[str, Made]], name: str, remote: RemoteImages) -> Iterator[tuple[str, Made]]:
    """Yield the same rows, and print a line every few seconds. The total number is not known."""
    began = line_at = time.monotonic()
    num_bad = 0
    for number, (place, one) in enumerate(made, start=1):
        yield place, one
        num_bad += one[1] is not None
        if (now := time.monotonic()) - line_at > SECONDS_BETWEEN_LINES:
            line_at = now
            fetched = f", {remote.num_fetched:,} images fetched" if remote.num_fetched else ""
            logger.info(f"checking {name}: {number:,} rows, {number / (now - began):,.0f} a second, {num_bad:,} bad{fetched}")


def _key(format_name: str, path: Path, split: Split, image_hosts: Sequence[str]) -> str:
    """Return a name that depends on format, path, hosts of images, state of the files and the reading code."""
    states = [state for read in files_read(format_name, path) for state in _states(read)]
    parts = [format_name, split, str(path.resolve()), " ".join(sorted(image_hosts)), _code_version(), *states]
    # A byte that no path holds: two lists of parts never give one text.
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _states(path: Path) -> Iterator[str]:
    """Yield name, size and time of a file, or of every file below a folder. Links are followed, and each folder is visited once."""
    if not path.is_dir():
        yield str(stamp(str(path)))
        return
    visited = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        # By real path: a link to a folder above would never come to an end.
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Sorted: the key must not depend on the order in which the file system lists names.
        for name in sorted(files):
            file = os.path.join(folder, name)
            yield f"{file} {stamp(file)}"


@cache
def _code_version() -> str:
    """Return a hash of the code that decides the result of a row."""
    ours = Path(__file__).parent
    core, verifier = ours.parent / "core", ours.parents[1] / "reward" / "verifier"
    files = [core / "http.py", core / "images.py", core / "types.py", *ours.rglob("*.py"), *verifier.rglob("*.py")]
    assert len(files) > 50, "a folder has moved: its files would no longer make stored rows stale"
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()
