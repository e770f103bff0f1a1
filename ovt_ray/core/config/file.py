"""Reads the configuration from a YAML file, or from a run's folder.

OmegaConf reads the YAML, so interpolation works, and `key=value` overrides follow on the command line. An unknown key is an error that
names the nearest known key. Nothing here imports torch, ray, vllm or transformers.
"""

import difflib
import json
from pathlib import Path
from typing import get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.section import Section
from ovt_ray.core.errors import ConfigError


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Return the validated configuration of a YAML file with `key=value` overrides applied.

    Raises ConfigError naming the key, the value seen, the rule and the nearest known key.
    """
    try:
        tree = OmegaConf.load(path)
        if not isinstance(tree, DictConfig):
            raise ConfigError(f"{path}: the top of the file must be a mapping of keys")
        for item in overrides:
            key, value = _override(item)
            OmegaConf.update(tree, key, value, merge=False)
        values = OmegaConf.to_container(tree, resolve=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_config(values, str(path))


def stored_config(path: Path) -> RunConfig:
    """Return the configuration that a run stored.

    A stored configuration has every key. Keys with the default's value count as not given, because some options may not be given where
    they have no effect.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a configuration that a run stored ({error}); give the folder that a run wrote") from error
    return parse_config(_given(values, RunConfig), str(path))


def _given(values: object, section: type[Section]) -> object:
    """Return the values of a section, or of each section in a list, without the values that equal the default."""
    if isinstance(values, list):
        return [_given(item, section) for item in values]
    if not isinstance(values, dict):
        return values
    kept = {}
    for key, value in values.items():
        field = section.model_fields.get(key)
        if field and not field.is_required() and to_jsonable_python(field.get_default()) == value:
            continue
        inner = _section_in(field.annotation) if field else None
        kept[key] = _given(value, inner) if inner else value
    return kept


def load_data_config(values: dict[str, object], overrides: list[str]) -> DataConfig:
    """Return the section `data` of plain values with `data.key=value` overrides applied. Raises ConfigError as `load_config` does."""
    for item in overrides:
        key, value = _override(item)
        if not key.startswith("data."):
            raise ConfigError(f"override {item!r}: only keys of data have an effect here, such as data.num_eval=50")
        values |= {key.removeprefix("data."): value}
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        lines = [_explain({**problem, "loc": ("data", *problem["loc"])}) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _override(item: str) -> tuple[str, object]:
    """Return the key and the value of an override."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {item!r} is not of the form key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"override {item!r}: the value is not YAML ({reason}); close what is open, or quote it") from error


def parse_config(values: object, origin: str) -> RunConfig:
    """Return the configuration of plain values. `origin` names their file in errors."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(problem) for problem in problems if not (problem["type"] == "too_short" and _has_bad_item(problem, problems))]
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from error


def _has_bad_item(too_short: ErrorDetails, problems: list[ErrorDetails]) -> bool:
    """Return whether a list counts as too short only because of a bad item, which has an error of its own."""
    place = too_short["loc"]
    return any(len(problem["loc"]) > len(place) and problem["loc"][: len(place)] == place for problem in problems)


def _explain(problem: ErrorDetails) -> str:
    """Return the line that reports a mistake: dotted key, rule, value seen, nearest known key."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, last = problem["loc"]
        known = _keys_below(parents)
        nearest = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {advice}"
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    rule = problem["msg"].removeprefix("Value error, ")
    seen = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
    return f"{key}: {rule}{seen}" if problem["loc"] else rule


def _keys_below(parents: list[int | str]) -> list[str]:
    """Return the key names of the section that a path of keys and list positions leads to."""
    section: type[Section] = RunConfig
    for part in parents:
        if isinstance(part, str):
            inner = _section_in(section.model_fields[part].annotation)
            assert inner, f"{part} holds keys"
            section = inner
    return list(section.model_fields)


def _section_in(annotation: object) -> type[Section] | None:
    """Return the section class of a field that holds a section or several sections; None for a plain value."""
    candidates = [annotation, *get_args(annotation)]
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)), None)
