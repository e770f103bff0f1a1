"""Refuses a working directory whose own modules would be imported instead of ours.

It has to be called before any of the services is imported, so it imports nothing but the errors.
"""

from pathlib import Path

from ovt_ray.core.errors import ConfigError

PACKAGES = ("ovt_ray", "actors", "learner", "reward")
"""Top-level names that this project takes."""


def check_no_shadow(directory: Path) -> None:
    """Raise ConfigError naming each module or package in the directory that has the name of one of ours.

    The directory is where Python looks first, on this machine and on the cluster that it is shipped to. A checkout of this
    project passes as long as it is the checkout that runs.
    """
    ours = Path(__file__).resolve().parents[2]
    found = [directory / f"{name}.py" for name in PACKAGES if (directory / f"{name}.py").is_file()]
    for name in PACKAGES:
        package = directory / name
        if (package / "__init__.py").is_file() and package.resolve() != ours / name:
            found.append(package)
    if found:
        lines = [
            f"{path}: has the name of the package {path.stem!r} of ovt_ray and can be imported in its place; {_advice(path)}"
            for path in found
        ]
        raise ConfigError("\n".join(lines))


def _advice(path: Path) -> str:
    """Return the way out for a module or package."""
    renamed = path.with_name(f"my_{path.name}").name
    return f"rename it, for example to {renamed}, also where it is named in reward.parts, or run from another directory"
