"""Whether the rewards of a config can be loaded, before anything is started for them."""

from ovt_ray.config import RewardConfig
from reward.load import NAMED_ACTOR, actor_class, runs_in_ray
from reward.protocol import Part
from reward.worker import ScoringProcess


def check_rewards(config: RewardConfig) -> None:
    """Make each part with its options in a scoring process; of a Ray actor class, check the options only.

    An actor that runs already is looked for when the run starts: only its cluster knows it. Raises RewardError for what is wrong.
    """
    for part in config.parts:
        if part.name.startswith(NAMED_ACTOR):
            continue
        if runs_in_ray(part.name):
            actor_class(part.name, part.options)
        else:
            ScoringProcess([Part(name=part.name, options=part.options)], config.memory_gb).close()
