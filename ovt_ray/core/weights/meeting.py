"""Where the members of a broadcast find each other: a store of the sender's."""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Address and size of a group."""

    host: str
    port: int
    num_members: int
    """Count of the members: the sender, and each process of each engine."""
    deadline_s: float
    """Longest wait for the other members, and for one bucket."""

    def store(self) -> "TCPStore":
        """Return the sender's store; raises RuntimeError if it cannot be reached before the deadline."""
        from torch.distributed import TCPStore

        return TCPStore(self.host, self.port, is_master=False, timeout=timedelta(seconds=self.deadline_s))


def new_meeting(host: str, num_members: int, deadline_s: float) -> "tuple[Meeting, TCPStore]":
    """Return where a new group meets, and its store, which this process keeps."""
    from torch.distributed import TCPStore

    # Port 0: the system picks a free one without a race. No wait: members are called after this returns.
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=deadline_s))
    return Meeting(host=host, port=store.port, num_members=num_members, deadline_s=deadline_s), store
