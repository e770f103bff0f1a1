"""All errors that a user can cause or has to act on."""


class OvtError(Exception):
    """Base of all errors of this project. The message names key or row, value, rule and fix."""


class ConfigError(OvtError):
    """A configuration key is unknown, out of range, or contradicts another key."""


class DataError(OvtError):
    """A row, an image or a file of the data cannot be used."""


class RewardError(OvtError):
    """A reward cannot be loaded, or failed too often to continue."""


class RolloutError(OvtError):
    """A rollout worker or its engine failed and could not be replaced."""


class BroadcastError(OvtError):
    """Weights could not be sent to all rollout workers at once."""


class LearnerError(OvtError):
    """A learner rank failed, or received samples that it cannot train on."""


class ParityError(OvtError):
    """Rollout and learner disagree on the log-probabilities of the same tokens."""


class StartError(OvtError):
    """Several mistakes keep a run from starting. The message lists each of them."""


class StageError(OvtError):
    """A stage of the run cannot continue, for example because no trace was accepted."""
