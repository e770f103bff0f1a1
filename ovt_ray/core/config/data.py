"""Configuration of the problems' sources. Imports as little as `ovt_ray.core.config.run`."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.config.section import Section

Host = Annotated[str, Field(pattern=r"^[a-z0-9._-]+(:[0-9]+)?$")]


class DataSet(Section):
    """A data set in addition to the first."""

    format: str
    """Name of the format, as in `data.format`, without `embedded`."""
    path: Path
    """File or folder that the format reads."""


class DataConfig(Section):
    """The sources of the problems."""

    format: str
    """Name of the format. `embedded` draws the procedural world. Every other format reads a data set (`ovt_ray/data/formats`,
    docs/data.md)."""
    path: Path | None = None
    """File or folder that the format reads; None for `embedded`."""
    also: tuple[DataSet, ...] = ()
    """Further data sets to learn from. Evaluation never uses them. Their problems' ids begin with the data set's position in this list,
    counted from 1: `1/17`."""
    eval_path: Path | None = None
    """Path of the held-out problems, for a format without a held-out split. With None, `num_eval` problems of `path` are held out."""
    eval_format: str | None = None
    """Format of `eval_path` if it differs from `format`. With it every stage is measured on a benchmark such as `mathvision`."""
    num_eval: int = Field(default=400, ge=1)
    """Number of held-out problems in each evaluation."""
    eval_split: Literal["validation", "test"] = "test"
    """Held-out figures of the embedded world that evaluation uses. Choose settings on `validation`."""
    bad_rows: Literal["drop", "refuse"] = "refuse"
    """Treatment of a row without an answer, a readable image or the like: leave it out and report it, or stop."""
    image_hosts: tuple[Host, ...] = ()
    """Hosts to fetch images at web addresses from, each image once. An example is `example.org`, or `example.org:8080` for an unusual
    port. A row or a redirect that names another host is never followed."""

    @model_validator(mode="after")
    def _path_fits_format(self) -> "DataConfig":
        _check_format("format", self.format, ["embedded", *FORMATS])
        for number, one in enumerate(self.also):
            _check_format(f"also.{number}.format", one.format, [*FORMATS])
        if self.also and self.format == "embedded":
            raise ValueError("also has no effect: problems of format 'embedded' are drawn, not mixed with a data set's; leave it out")
        if self.eval_format:
            _check_format("eval_format", self.eval_format, [*FORMATS])
        if (self.path is None) != (self.format == "embedded"):
            need = "takes no path"
            if self.format != "embedded":
                need = f"needs a path: add data.path=PATH, {FORMATS[self.format].path_is}"
            raise ValueError(f"format {self.format!r} {need}")
        if self.eval_format and not self.eval_path:
            raise ValueError(f"eval_format {self.eval_format!r} needs a path: add data.eval_path=PATH, {FORMATS[self.eval_format].path_is}")
        if self.eval_path and (self.format == "embedded" or (FORMATS[self.format].has_eval_split and not self.eval_format)):
            raise ValueError(f"eval_path has no effect: format {self.format!r} has held-out problems of its own; leave it out")
        if self.image_hosts and self.format == "embedded":
            raise ValueError("image_hosts has no effect: images of format 'embedded' are drawn; leave it out")
        if "eval_split" in self.model_fields_set and self.format != "embedded":
            raise ValueError(f"eval_split is an option of format 'embedded' only, not {self.format!r}: leave it out")
        return self


def _check_format(key: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known formats: {', '.join(known)}"
        raise ValueError(f"{key} {name!r} is unknown; {advice}")
