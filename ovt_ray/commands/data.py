"""`ovt-ray data`: the content of a data set, and the rows that are left out and why, before anything is trained on it."""

import argparse
import json
from pathlib import Path

from ovt_ray.commands.config_arguments import load
from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.file import load_data_config
from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.config.run import ModelConfig, RunConfig
from ovt_ray.core.errors import ConfigError

SUMMARY = "survey a data set and the rows that are left out, and draw examples"
DESCRIPTION = """Print how many problems of each source, kind and size a data set has, which are repeated, held out or left out and why,
and draw some of them. Rows are checked once and kept in runs/.problems, where a run finds them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data, their format, and the examples to draw."""
    parser.add_argument(
        "config", type=Path, nargs="?", metavar="IN", help="YAML file of a run, or with --format a file or folder of problems"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.num_eval=50")
    parser.add_argument("--format", metavar="NAME", help=f"format of IN: {', '.join(FORMATS)}")
    parser.add_argument("--model", metavar="MODEL", help="measure the prompts of this model (folder, hub name or `embedded`)")
    parser.add_argument("--sheet", type=Path, default=Path("contact_sheet.png"), metavar="OUT.png", help="where the examples are drawn to")
    parser.add_argument("--examples", type=int, default=24, metavar="N", help="problems to draw; 24")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a row of formats jsonl and parquet, and stop")


def main(parsed: argparse.Namespace) -> int:
    """Print the survey of a data set, or the schema of a row."""
    if parsed.schema:
        from ovt_ray.data.rows import ProblemRow

        print(json.dumps(ProblemRow.model_json_schema(), indent=2))
        return 0
    if parsed.config is None:
        raise ConfigError("data: IN is missing: give a run's YAML file, or a file or folder of problems and --format")
    if parsed.examples < 1:
        raise ConfigError(f"--examples: must be at least 1, got {parsed.examples}")
    data, folder, model = _surveyed(parsed)
    if parsed.model:
        model = model.model_copy(update={"path": parsed.model}) if model else ModelConfig(path=parsed.model)
    from ovt_ray.report.survey import survey

    survey(data, folder, model if parsed.model else None, sheet=parsed.sheet, num_examples=parsed.examples)
    return 0


def _surveyed(parsed: argparse.Namespace) -> tuple[DataConfig, Path, ModelConfig | None]:
    """Return the data to survey, the folder that keeps them once checked, and the run's model if IN is a run's file."""
    if parsed.format is None:
        if parsed.config.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"{parsed.config}: is no YAML file of a run; say what it is with --format, one of {', '.join(FORMATS)}")
        config = load(parsed)
        return config.data, config.problem_folder, config.model
    values = {"format": parsed.format, "path": str(parsed.config)}
    return load_data_config(values, parsed.overrides), RunConfig.model_fields["runs_dir"].default / ".problems", None
