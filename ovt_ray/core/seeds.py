"""Seeds that follow from other seeds: the one hash that every order and every sample of a run depends on."""

import hashlib


def stable_seed(*parts: int | str) -> int:
    """Return a 56-bit seed that depends on every part, the same in every process."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")
