"""Finds a reward by its name, makes it with its options, and checks that it can be called as a reward."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ovt_ray.core.errors import RewardError
from reward.protocol import Method, Part, method_of

ENDPOINTS = ("http://", "https://")
NAMED_ACTOR = "actor:"
FILE_MODULE = "reward_file:"
"""Prefix of the module name of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward that is ready to be called in this process."""

    name: str
    method: Method
    call: Callable[..., Any]
    """Function that is called as (problem, *method.arguments(answers))."""


def load_reward(name: str, options: Mapping[str, Any] | None = None) -> Reward:
    """Return the reward of a name. A class is instantiated with the options.

    Imports the reward's module. Raises RewardError that names the wrong part of the name or the wrong option.
    """
    options = options or {}
    if name.startswith(ENDPOINTS):
        return load_reward("reward.endpoint:Endpoint", {**options, "url": name})
    found = find_reward(name)
    if is_actor_class(found):
        raise RewardError(f"reward {name!r} is a Ray actor class: it runs in an actor, not in a scoring process")
    if inspect.isclass(found):
        arguments = checked_options(name, found, options)
        try:
            found = found(**arguments)
        except Exception as error:
            raise RewardError(f"reward {name!r}: its constructor raised {type(error).__name__}: {error}") from error
    elif options:
        raise RewardError(f"reward {name!r} is no class and takes no options, got {', '.join(options)}: make it a class, or leave them out")
    method = reward_method(name, found)
    return Reward(name=name, method=method, call=found if method.name == "__call__" else found.score_batch)


def with_deadline(part: Part, deadline_s: float) -> Part:
    """Return the part as a pool loads it: the request to an endpoint ends too, just after the answer has been given up."""
    if not part.name.startswith(ENDPOINTS):
        return part
    return replace(part, options={**part.options, "timeout_s": deadline_s + 1})


def find_reward(name: str) -> Any:
    """Return the function, object, class or Ray actor class with the name `package.module:Name` or `path/file.py:Name`."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise RewardError(f"reward {name!r} is not of the form package.module:Name or path/file.py:Name")
    module = _import(name, place)
    found = vars(module).get(attribute)
    if found is None:
        raise RewardError(f"reward {name!r}: {place} has no {attribute!r}; {_advice(module, attribute)}")
    return found


def is_actor_class(found: object) -> bool:
    """Return whether `@ray.remote` made the object from a class. Does not import Ray: without its import no such object exists."""
    ray_actor = sys.modules.get("ray.actor")
    return ray_actor is not None and isinstance(found, ray_actor.ActorClass)


def actor_class(name: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], Method]:
    """Return the Ray actor class of a name, its checked options, and the method that calls its actors. Raises RewardError."""
    found = find_reward(name)
    plain = found.__ray_metadata__.modified_class
    return found, checked_options(name, plain, options), reward_method(name, plain)


def reward_method(name: str, found: object) -> Method:
    """Return the method that calls a reward, or an object of a class. Raises RewardError if it cannot be called as a reward."""
    try:
        return method_of(found)
    except TypeError as error:
        kind = found.__name__ if inspect.isclass(found) else type(found).__name__
        raise RewardError(f"reward {name!r} ({kind}) {error}") from error


def checked_options(name: str, owner: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, converted to the types that the constructor declares.

    Raises RewardError that names an option that is unknown (with the nearest known option), missing, or of another type.
    """
    parameters = _signature(owner).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = [key for key, parameter in parameters.items() if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)]
    for key in options:
        if key not in known and not takes_any:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"it takes: {', '.join(known) or 'none'}"
            raise RewardError(f"reward {name!r}: unknown option {key!r}; {advice}")
    if missing := [key for key in known if parameters[key].default is parameters[key].empty and key not in options]:
        raise RewardError(f"reward {name!r}: option {missing[0]!r} is missing; add it to its options")
    declared = {key: parameters[key].annotation for key in known if parameters[key].annotation is not inspect.Parameter.empty}
    return {key: _as_declared(name, key, value, declared[key]) if key in declared else value for key, value in options.items()}


def _signature(owner: type) -> inspect.Signature:
    """Return a constructor's signature with its annotations as types."""
    try:
        return inspect.signature(owner, eval_str=True)
    except NameError:  # types imported for a type checker only: options of such types go unchecked
        bare = inspect.signature(owner)
        unknown = [parameter.replace(annotation=parameter.empty) for parameter in bare.parameters.values()]
        return bare.replace(parameters=unknown)


def _as_declared(name: str, key: str, value: object, declared: Any) -> Any:
    """Return a value, converted to the declared type."""
    from pydantic import TypeAdapter, ValidationError  # late, so that a reward without options does not wait for the import

    try:
        return TypeAdapter(declared).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *map(str, first["loc"])])
        raise RewardError(f"reward {name!r}: option {where!r}: {first['msg']}, got {first['input']!r}") from error


def _import(name: str, place: str) -> ModuleType:
    """Return the module at a dotted name or a path. Any error of the import becomes a RewardError."""
    try:
        return _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError as error:
        raise RewardError(f"reward {name!r}: no file {error.filename} (relative paths start at {Path.cwd()})") from error
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            advice = "give path/file.py:Name if it is a file of your own"
            raise RewardError(f"reward {name!r}: no module named {error.name!r}; {advice}") from error
        raise RewardError(f"reward {name!r}: {place} needs {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise RewardError(f"reward {name!r}: importing {place} raised {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    """Return the module of a file. It is registered, as its dataclasses need, under a name that no package has."""
    path = path.resolve()
    known_as = f"{FILE_MODULE}{path}"
    if known_as in sys.modules:
        return sys.modules[known_as]
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
    """Return the nearest callable name of the module, or all callable names."""
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    nearest = difflib.get_close_matches(attribute, names, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"it has: {', '.join(names) or 'no function'}"
