"""The configuration of where problems come from. Light as `ovt_ray.core.config.run`, which has the rest."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.config.section import Section

Host = Annotated[str, Field(pattern=r"^[a-z0-9._-]+(:[0-9]+)?$")]


class DataSet(Section):
    """A data set beside the first one."""

    format: str
    """As `data.format`, without `embedded`."""
    path: Path
    """What the format reads."""


class DataConfig(Section):
    """Where problems come from."""

    format: str
    """`embedded` draws the procedural world; the others read data sets (`ovt_ray/data/formats`, docs/data.md)."""
    path: Path | None = None
    """What the format reads: a file or a folder; none for `embedded`."""
    also: tuple[DataSet, ...] = ()
    """Data sets that are learnt from too; nothing of them is held out. Their problems' ids begin with their place in this list, counted
    from 1: `1/17`."""
    eval_path: Path | None = None
    """Held-out problems in a place of their own, for formats that know none; without it, `num_eval` problems are held out of `path`."""
    eval_format: str | None = None
    """Format of `eval_path`, if it is another: so a benchmark such as `mathvision` is what every stage is measured on."""
    num_eval: int = Field(default=400, ge=1)
    """Held-out problems in each evaluation."""
    eval_split: Literal["validation", "test"] = "test"
    """Which held-out figures of the embedded world are asked about: settings are chosen on `validation`."""
    bad_rows: Literal["drop", "refuse"] = "refuse"
    """What to do with a row that has no answer, no readable image, ...: leave it out and say so, or stop."""
    image_hosts: tuple[Host, ...] = ()
    """Hosts that images at web addresses are fetched from, once: `example.org`, with a port that is not the usual one `example.org:8080`.
    Nothing else that a row or a redirect names is reached."""

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
            raise ValueError(f"eval_split says something about format 'embedded' only, not {self.format!r}: leave it out")
        return self


def _check_format(key: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known formats: {', '.join(known)}"
        raise ValueError(f"{key} {name!r} is unknown; {advice}")
