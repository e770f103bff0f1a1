"""Checks of a reward before anything is started for it."""

from ovt_ray.core.config.run import RewardConfig, RewardPart
from ovt_ray.core.errors import RewardError
from reward.load import NAMED_ACTOR, actor_class
from reward.protocol import Part
from reward.service.places import runs_in_ray
from reward.service.worker import ScoringProcess


def check_reward(part: RewardPart, config: RewardConfig) -> None:
    """Make a part with its options in a scoring process; of a Ray actor class, check the options only.

    An actor that runs already is looked up when the run starts: only its cluster knows it. Raises RewardError naming the mistake.
    """
    if part.name.startswith(NAMED_ACTOR):
        check_replicas(part, config.num_actors)
    elif runs_in_ray(part.name):
        check_replicas(part, config.num_actors)
        actor_class(part.name, part.options)
    else:
        ScoringProcess([Part(name=part.name, options=part.options)], config.memory_gb).close()


def check_replicas(part: RewardPart, num_actors: int) -> None:
    """Raise RewardError if a part has too few actors for each reward actor to have one of its own.

    Two reward actors that share one would wait for each other, and answers that wait miss their deadline.
    """
    if part.name.startswith(NAMED_ACTOR) and num_actors > 1:
        raise RewardError(f"reward {part.name!r}: reward.num_actors={num_actors} would share one actor that runs already: set it to 1")
    if not part.name.startswith(NAMED_ACTOR) and part.replicas < num_actors:
        raise RewardError(
            f"reward {part.name!r}: replicas={part.replicas} are fewer than reward.num_actors={num_actors}, and each reward actor needs "
            "one of its own: raise replicas, or lower reward.num_actors"
        )
