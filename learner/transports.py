"""The ways of the weights through the object store: whole, or as a base and adapters. The third way is in `learner/broadcast.py`."""

from typing import Any

from learner.broadcast import BroadcastTransport, RankSender
from learner.rank_actor import RankActor
from learner.ranks import Ranks
from ovt_ray.core.config.run import LearnerConfig
from ovt_ray.core.weights.transport import StoredVersion, Transport
from ovt_ray.core.weights.version import Weights


def transport_of(config: LearnerConfig, ranks: Ranks) -> Transport:
    """Return the way that the section asks for."""
    if config.weight_transport == "broadcast":
        return BroadcastTransport(RankSender(ranks))
    return WholeWeights(ranks) if config.lora is None else BaseAndAdapters(ranks)


class WholeWeights:
    """Puts every tensor of each version into the object store of rank 0's node."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def begin_stage(self) -> None:
        """Do nothing: no version refers to another."""

    def publish(self, version: int, *, is_checked: bool) -> StoredVersion:
        """Return the weights as a version."""
        buckets, sums = self._ranks.all(RankActor.publish, is_checked)[0]
        return StoredVersion(Weights(version=version, buckets=tuple(buckets), checksums=sums))


class BaseAndAdapters:
    """Puts the first model of a stage into the object store once, and the adapters with each version."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._base: tuple[list[Any], dict[str, str]] | None = None
        """References and checksums of the stage's first model, once it is published."""

    def begin_stage(self) -> None:
        """Forget the base: another stage may begin from another model."""
        self._base = None

    def publish(self, version: int, *, is_checked: bool) -> StoredVersion:
        """Return the weights as a version; the first version of a stage is always checked, since it brings the base."""
        if self._base is None:
            self._base, is_checked = self._ranks.all(RankActor.publish_base)[0], True
        buckets, base_sums = self._base
        adapters, sums = self._ranks.all(RankActor.publish_adapters, is_checked)[0]
        checksums = base_sums | sums if is_checked else {}
        return StoredVersion(Weights(version=version, buckets=tuple(buckets), adapters=tuple(adapters), checksums=checksums))
