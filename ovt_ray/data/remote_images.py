"""Images at web addresses: fetched once, from hosts that are named, and files from then on.

    <folder>/images/<sha256>.<suffix>   an image, by its content
    <folder>/fetched/<sha256>           by its address: a link to the image

A row is untrusted, and so is a redirect: neither reaches a host that `data.image_hosts` does not list.
"""

import hashlib
import os
import re
import string
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from ovt_ray.core.errors import DataError
from ovt_ray.core.http import Refused, Unreachable, get_content
from ovt_ray.core.images import BadImage, image_facts, image_fault, is_address, store_image
from ovt_ray.core.types import ImageSource

MAX_FETCHED_BYTES = 32 * 2**20
"""Each thread that fetches may hold so much; a JPEG of `MAX_IMAGE_PIXELS` is shorter."""
DEADLINE_S = 30.0
"""For an image and the redirects that lead to it; a server that takes longer holds up the rows behind it."""
MAX_LATE = 16
"""Images of a host, one after the other, that may let their deadline pass; nothing more is asked of it then."""
PORTS = {"http": "80", "https": "443"}
PARTS = re.compile(r"(https?)://([a-z0-9._-]+)(?::([0-9]+))?([/?#].*)?", re.ASCII | re.IGNORECASE | re.DOTALL)


def host_of(address: str) -> str:
    """Return the host of an address as `data.image_hosts` lists it: with its port where that is not the usual one.

    Raises DataError for an address that two readers could take for two hosts, such as one with a user.
    """
    if (found := PARTS.fullmatch(address)) is None:
        raise DataError("must be http://HOST/PATH or https://HOST/PATH, HOST a name or name:port; correct it")
    scheme, host, port, _ = found.groups()
    return host.lower() if port in (None, PORTS[scheme.lower()]) else f"{host.lower()}:{port}"


class RemoteImages:
    """The images at addresses, as files below a folder. Several threads may ask; none fetches what another one is fetching."""

    def __init__(self, hosts: Sequence[str], folder: Path, deadline_s: float = DEADLINE_S) -> None:
        """Fetch from these hosts alone, each image within the deadline."""
        self._deadline_s = deadline_s
        self._hosts = frozenset(hosts)
        self.images = folder.resolve() / "images"
        """Where images lie by their content."""
        self._links = folder.resolve() / "fetched"
        self._locks = [Lock() for _ in range(64)]
        """Of all addresses with the same remainder of their hash."""
        self._faults: dict[str, str] = {}
        """Why an address has no image: many rows may be about one whose server does not answer."""
        self._num_late: Counter[str] = Counter()
        """Images in a row that let their deadline pass, by host."""
        self._counting = Lock()
        self.num_fetched = 0

    def local(self, images: Sequence[ImageSource]) -> list[ImageSource]:
        """Return images with the path of a file for each address. Raises BadImage with the address, its place and the reason."""
        sources: list[ImageSource] = []
        for position, source in enumerate(images):
            try:
                sources.append(self._file(source) if is_address(source) else source)
            except DataError as error:
                raise BadImage(f"images[{position}]: {source[:300]!r}: {error}", source) from error
        return sources

    def _file(self, address: str) -> str:
        self._check(address)
        with self._locks[hash(address) % len(self._locks)]:
            if address in self._faults:
                raise DataError(self._faults[address])
            link = self._links / hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()
            if not link.exists() or image_fault(os.path.realpath(link)):
                try:
                    self._fetch(address, link)
                except DataError as error:
                    self._faults[address] = str(error)
                    raise
            return os.path.realpath(link)

    def _check(self, address: str) -> None:
        if (host := host_of(address)) not in self._hosts:
            hosts = ",".join([*sorted(self._hosts), host])
            raise DataError(
                f"on the host {host!r}, and images are fetched from those in data.image_hosts alone: allow it with "
                f"data.image_hosts=[{hosts}], or store the image and give its path"
            )

    def _check_redirect(self, address: str) -> None:
        try:
            self._check(address)
        except DataError as error:
            raise DataError(f"leads to {address[:300]!r}: {error}") from error

    def _fetch(self, address: str, link: Path) -> None:
        """Store the image at an address as a file, and leave a link to it."""
        host, began = host_of(address), time.monotonic()
        if self._num_late[host] >= MAX_LATE:
            raise DataError(f"not asked for: {MAX_LATE} images of {host} in a row did not come within {self._deadline_s:g} s; try later")
        try:
            asked = quote(address, safe=string.punctuation)
            content = get_content(asked, self._check_redirect, MAX_FETCHED_BYTES, self._deadline_s)
        except (Unreachable, Refused, ValueError) as error:
            self._num_late[host] += time.monotonic() - began > 0.9 * self._deadline_s
            raise DataError(f"cannot be fetched ({error!s:.300}); store the image and give its path") from error
        self._num_late[host] = 0
        path = store_image(content, image_facts(content), self.images)
        scratch = link.with_name(f".{link.name}.{os.getpid()}.tmp")
        self._links.mkdir(exist_ok=True)
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(os.path.relpath(path, self._links))
        os.replace(scratch, link)
        with self._counting:
            self.num_fetched += 1
