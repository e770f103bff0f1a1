"""The count of published versions, and which of them are checked."""

from ovt_ray.core.weights.transport import PublishedVersion, Transport

CHECKSUM_EVERY = 10
"""Every tenth version, from the first on, is checked byte by byte. SHA-256 of a gigabyte takes half a second on each side, a
copy a tenth."""


class Publisher:
    """Numbers the versions of the learner's weights, and gives them to a transport."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.version = 0
        """Number of the version that was published last; 0 before the first."""

    def publish(self) -> PublishedVersion:
        """Return the next version of the weights."""
        self.version += 1
        return self.transport.publish(self.version, is_checked=self.version % CHECKSUM_EVERY == 1)

    def publish_again(self, version: int) -> PublishedVersion:
        """Return the weights under the version that they had before a stop; the count goes on from it."""
        self.version = version
        # Checked: after a resume it is the first version that these engines receive.
        return self.transport.publish(version, is_checked=True)
