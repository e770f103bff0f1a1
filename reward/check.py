"""Checks that the rewards of a config can be loaded, before anything is started for them."""

from ovt_ray.core.config.run import RewardConfig, RewardPart
from ovt_ray.core.errors import RewardError
from reward.load import NAMED_ACTOR, actor_class
from reward.protocol import Part
from reward.service.places import runs_in_ray
from reward.service.worker import ScoringProcess


def check_reward(part: RewardPart, config: RewardConfig) -> None:
    """Make a part with its options in a scoring process. For a Ray actor class check only the options.

    The start of the run looks for actors that already run, as only their cluster knows them. Raises RewardError for a mistake.
    """
    if part.name.startswith(NAMED_ACTOR):
        check_replicas(part, config.num_actors)
    elif runs_in_ray(part.name):
        check_replicas(part, config.num_actors)
        actor_class(part.name, part.options)
    else:
        ScoringProcess([Part(name=part.name, options=part.options)], config.memory_gb).close()


def check_replicas(part: RewardPart, num_actors: int) -> None:
    """Raise RewardError if a part has too few actors for each reward actor to have its own.

    Two reward actors that shared an actor would make each other wait past their deadlines.
    """
    if part.name.startswith(NAMED_ACTOR) and num_actors > 1:
        raise RewardError(f"reward {part.name!r}: reward.num_actors={num_actors} would share one actor that already runs: set it to 1")
    if not part.name.startswith(NAMED_ACTOR) and part.replicas < num_actors:
        raise RewardError(
            f"reward {part.name!r}: replicas={part.replicas} are fewer than reward.num_actors={num_actors}, and each reward actor needs "
            "a replica of its own: raise replicas, or lower reward.num_actors"
        )
