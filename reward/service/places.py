"""Finds out whether a reward runs in Ray actors or in scoring processes.

`python -m reward.service.places NAME` imports the reward to find out. A hanging import thus hangs in a process of its own.
"""

import os
import subprocess
import sys

from ovt_ray.core.errors import RewardError
from reward.load import ENDPOINTS, NAMED_ACTOR, find_reward, is_actor_class

IMPORT_DEADLINE_S = 60.0
"""Upper bound on the import time of a reward's module."""
_EXIT_ACTOR_CLASS = 102


def runs_in_ray(name: str) -> bool:
    """Return whether a reward runs in Ray actors rather than in scoring processes.

    False for a reward that cannot be loaded: the scoring process reports the mistake. Raises RewardError if the import takes too long.
    """
    if name.startswith(NAMED_ACTOR):
        return True
    if name.startswith(ENDPOINTS):
        return False
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", "-m", "reward.service.places", name]
    silent = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, timeout=IMPORT_DEADLINE_S, stdin=silent, stdout=silent, stderr=silent
        )
    except subprocess.TimeoutExpired as error:
        raise RewardError(f"reward {name!r}: its import took longer than {IMPORT_DEADLINE_S:g} s") from error
    return done.returncode == _EXIT_ACTOR_CLASS


if __name__ == "__main__":
    sys.exit(_EXIT_ACTOR_CLASS if is_actor_class(find_reward(sys.argv[1])) else 0)
