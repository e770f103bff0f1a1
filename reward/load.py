"""Finds a reward by its name and checks that it can be called as one."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ovt_ray.errors import RewardError
from ovt_ray.types import Problem, Score

RewardFunction = Callable[[Problem, str], Score]
"""Scores the text of one completion of a problem."""


def load_reward(name: str) -> RewardFunction:
    """Return the function named `package.module:Name` or `path/file.py:Name`.

    Imports its module. Raises RewardError that says which part of the name is wrong.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise RewardError(f"reward.name: {name!r} is not of the form package.module:Name or path/file.py:Name")
    module = _import(name, place)
    reward = vars(module).get(attribute)
    if reward is None:
        raise RewardError(f"reward.name: {name!r}: {place} has no {attribute!r}; {_advice(module, attribute)}")
    if not callable(reward):
        raise RewardError(f"reward.name: {name!r} is a {type(reward).__name__}, not a function (problem, text) -> Score")
    _check_signature(name, reward)
    return reward


def _import(name: str, place: str) -> ModuleType:
    """Return the module at a dotted name or a path; whatever its import raises becomes a RewardError."""
    try:
        return _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError as error:
        raise RewardError(f"reward.name: {name!r}: no file {error.filename} (relative paths start at {Path.cwd()})") from error
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            advice = "give path/file.py:Name if it is a file of your own"
            raise RewardError(f"reward.name: {name!r}: no module named {error.name!r}; {advice}") from error
        raise RewardError(f"reward.name: {name!r}: {place} needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise RewardError(f"reward.name: {name!r}: importing {place} raised {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    """Return the module of a file, registered under a name that no package has, as its dataclasses need."""
    path = path.resolve()
    known_as = f"reward_file:{path}"
    spec = importlib.util.spec_from_file_location(known_as, path)
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known_as]
        raise
    return module


def _advice(module: ModuleType, attribute: str) -> str:
    """Return the nearest callable name of the module, or all of them."""
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    nearest = difflib.get_close_matches(attribute, names, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"it has: {', '.join(names) or 'no function'}"


def _check_signature(name: str, reward: RewardFunction) -> None:
    """Raise RewardError unless the reward takes two positional arguments; a callable without a signature passes."""
    try:
        signature = inspect.signature(reward)
    except ValueError:
        return
    try:
        signature.bind("problem", "text")
    except TypeError as error:
        raise RewardError(f"reward.name: {name!r} takes {signature}; it is called as (problem, text): {error}") from error
