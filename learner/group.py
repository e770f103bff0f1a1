"""The learner group as the driver sees it: all ranks called at once."""

from collections.abc import Sequence
from pathlib import Path

from learner.publisher import Publisher
from learner.rank_actor import RankActor
from learner.ranks import in_store, start_ranks
from learner.stage import Stage
from learner.transports import transport_of
from ovt_ray.core.config.run import LearnerConfig, ModelConfig
from ovt_ray.core.types import TrainSample, UpdateStats
from ovt_ray.core.weights.transport import PublishedVersion


class LearnerGroup:
    """All ranks of the learner. Any failure ends the group."""

    def __init__(self, config: LearnerConfig, model: ModelConfig, seed: int) -> None:
        """Start one actor per rank. They get ready in the background; the first call waits for them.

        Raises LearnerError if the cluster does not have the resources within a minute.
        """
        self.ranks, self._joined = start_ranks(config, model, seed)
        self._publisher = Publisher(transport_of(config, self.ranks))

    def begin(self, stage: Stage) -> None:
        """Load the stage's first model with a fresh optimizer in place of the state of an earlier stage."""
        self.ranks.collect(self._joined, "start")
        self._publisher.transport.begin_stage()
        self.ranks.change(RankActor.begin, stage)

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples and return its figures."""
        return self.ranks.change(RankActor.update, in_store(samples))[0]

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        """Return the policy's log-probabilities of each sample's completion tokens, in order.

        They are of the stage's distribution: at its temperature, without image placeholders.
        """
        shares = self.ranks.all(RankActor.logprobs, in_store(samples))
        return [row for share in shares for row in share]

    def validation_loss(self, samples: Sequence[TrainSample]) -> float:
        """Return the mean cross entropy of the samples' loss tokens, nats, at the stage's temperature; nothing is updated."""
        return self.ranks.all(RankActor.validation_loss, in_store(samples))[0]

    def publish(self, version: int | None = None) -> PublishedVersion:
        """Return the weights as the next version, or as the version that they had before a stop; the count then goes on from it."""
        return self._publisher.publish() if version is None else self._publisher.publish_again(version)

    @property
    def version(self) -> int:
        """Number of the version that was published last; 0 before the first."""
        return self._publisher.version

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint of `step`. It appears in one piece; the one before stays until then and is removed after."""
        self.ranks.all(RankActor.save, folder.absolute(), step)

    def restore(self, folder: Path) -> int:
        """Go back to the folder's newest complete checkpoint and return its step; return 0 if there is none.

        Training goes on with the same numbers as if it had never stopped.
        """
        return self.ranks.change(RankActor.restore, folder.absolute())[0]

    def export(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face folder, in one piece."""
        self.ranks.all(RankActor.export, folder.absolute())

    def close(self) -> None:
        """End all ranks and give their resources back. Closing twice is fine."""
        self.ranks.close()
