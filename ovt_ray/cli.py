"""The command line: `ovt-ray run | check | data | score | report | replay | export-data | doctor`, also `python -m ovt_ray`.

Nothing heavy is imported before the configuration is known to be good.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ovt_ray.commands.shadow import check_no_shadow
from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.file import load_config, load_data_config
from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.config.run import ModelConfig, RewardConfig, RunConfig
from ovt_ray.core.errors import ConfigError, OvtError
from ovt_ray.run.logs import show_logs

SCORE = """Verify the answers in a file of JSON lines: response and gold (or answer), and optionally question, kind (choice, number, text,
latex, yesno, list), choices, precision, unit, extraction (if there is one, it is scored instead of the response)."""

REPLAY = """Of a run with grpo.keep_rollouts: learn from the groups of a step again, draw them again with their seeds, and say what is as
recorded, and what it took. Step 0 begins from the weights it had then and has to come out the same; later steps begin from the stage's
first model, for want of their own."""


DATA = """Print how many problems of each source, kind and size a data set has, which are repeated, held out or left out and why, and draw
some of them. Rows are checked once and kept in runs/.problems, where a run finds them."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM: stops a run in the same order as Ctrl-C does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 an error that the message explains, 130 and 143 when stopped."""
    parsed = _parser().parse_args(arguments)
    show_logs(parsed.log_level)
    signal.signal(signal.SIGTERM, _stop)
    try:
        check_no_shadow(Path.cwd())
        return parsed.command(parsed)
    except OvtError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(
            f"\n{error.strerror}: {error.filename}: free space or give access, and run the same command again",
            file=sys.stderr,
            flush=True,
        )
        return 1
    except KeyboardInterrupt as stop:
        onwards = "goes on from here" if parsed.command is _run else "starts afresh"
        print(f"\nstopped; the same command {onwards}", file=sys.stderr, flush=True)
        return 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ovt-ray", description="Train a vision-language model to reason: distil, SFT, GRPO, again.")
    parser.set_defaults(log_level=logging.INFO)
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", "--verbose", dest="log_level", action="store_const", const=logging.DEBUG, help="log details, with time and module"
    )
    loudness.add_argument("-q", "--quiet", dest="log_level", action="store_const", const=logging.WARNING, help="log warnings alone")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, summary in (
        ("run", _run, "run, or go on with, what a config asks for"),
        ("check", _check, "validate a config, its reward, its data and its model without running it"),
    ):
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, for example configs/tiny.yaml")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="for example seed=1 iterations[0].grpo.num_steps=5")
        sub.set_defaults(command=command)
    data = commands.add_parser("data", help="say what a data set holds and what of it is left out, and draw examples", description=DATA)
    data.add_argument(
        "config", type=Path, nargs="?", metavar="IN", help="YAML file of a run, or with --format a file or folder of problems"
    )
    data.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.num_eval=50")
    data.add_argument("--format", metavar="NAME", help=f"format of IN: {', '.join(FORMATS)}")
    data.add_argument("--model", metavar="MODEL", help="measure the prompts of this model (folder, hub name or `embedded`)")
    data.add_argument("--sheet", type=Path, default=Path("contact_sheet.png"), metavar="OUT.png", help="where the examples are drawn to")
    data.add_argument("--examples", type=int, default=24, metavar="N", help="problems to draw; 24")
    data.add_argument("--schema", action="store_true", help="print the JSON schema of a row of formats jsonl and parquet, and stop")
    data.set_defaults(command=_data)
    score = commands.add_parser("score", help="verify the answers in a file of JSON lines", description=SCORE)
    score.add_argument("source", type=Path, metavar="IN.jsonl")
    score.add_argument(
        "--output", type=Path, required=True, metavar="OUT.jsonl", help="the same rows with outcome, value, extracted, reason"
    )
    score.add_argument("--reward", metavar="NAME", help="package.module:Name, path/file.py:Name, actor:NAME or an http(s) address")
    score.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="key=value",
        help="argument of the reward's constructor, may be repeated",
    )
    score.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="scoring processes; as many as cores")
    limit_s = RewardConfig().deadline_s
    score.add_argument(
        "--deadline-s", type=float, default=limit_s, metavar="S", help=f"longest time for one answer, in seconds; {limit_s:g}"
    )
    score.set_defaults(command=_score)
    report = commands.add_parser("report", help="write report.html and curves.png of a run folder again")
    report.add_argument("run_dir", type=Path, metavar="RUN_FOLDER")
    report.set_defaults(command=_report)
    replay = commands.add_parser("replay", help="learn from, or generate, a kept step of GRPO again", description=REPLAY)
    replay.add_argument("run_dir", type=Path, metavar="RUN_FOLDER")
    replay.add_argument("stage", metavar="STAGE", help="for example iter1/grpo")
    replay.add_argument("step", type=int, metavar="STEP", help="counted from 0, as in metrics.jsonl")
    replay.add_argument("--only", choices=("learn", "generate"), help="half of the step, without the services of the other")
    replay.set_defaults(command=_replay)
    export = commands.add_parser("export-data", help="write a run's traces for LLaMA-Factory or EasyR1")
    export.add_argument("source", type=Path, metavar="TRACES", help="for example runs/NAME/iter1/distil/traces.jsonl")
    export.add_argument("target", type=Path, metavar="OUT", help="OUT.json for LLaMA-Factory, OUT.parquet for EasyR1")
    export.set_defaults(command=_export)
    commands.add_parser("doctor", help="say what is installed, what the machine has, and what is wrong").set_defaults(command=_doctor)
    return parser


def _run(parsed: argparse.Namespace) -> int:
    config = _outside_job_package(_load(parsed))
    from ovt_ray.recipe import run_recipe

    run_recipe(config)
    return 0


def _check(parsed: argparse.Namespace) -> int:
    config = _load(parsed)
    print(f"{parsed.config}: the configuration is valid", flush=True)
    from ovt_ray.commands.check import check_run

    check_run(config)
    return 0


def _load(parsed: argparse.Namespace) -> RunConfig:
    config = load_config(parsed.config, parsed.overrides)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return config


def _data(parsed: argparse.Namespace) -> int:
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
    from ovt_ray.commands.data import survey

    survey(data, folder, model if parsed.model else None, parsed.sheet, parsed.examples)
    return 0


def _surveyed(parsed: argparse.Namespace) -> tuple[DataConfig, Path, ModelConfig | None]:
    """Return which data are asked about, where they are kept once checked, and the run's model if a run's file is given."""
    if parsed.format is None:
        if parsed.config.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"{parsed.config}: is no YAML file of a run; say what it is with --format, one of {', '.join(FORMATS)}")
        config = _load(parsed)
        return config.data, config.problem_folder, config.model
    values = {"format": parsed.format, "path": str(parsed.config)}
    return load_data_config(values, parsed.overrides), RunConfig.model_fields["runs_dir"].default / ".problems", None


def _score(parsed: argparse.Namespace) -> int:
    if parsed.processes < 1:
        raise ConfigError(f"--processes: must be at least 1, got {parsed.processes}")
    if not 0 < parsed.deadline_s < float("inf"):
        raise ConfigError(f"--deadline-s: must be above 0, got {parsed.deadline_s:g}")
    from ovt_ray.commands.score import named_reward, score_file, summary

    reward = named_reward(parsed.reward, parsed.option)
    tally = score_file(parsed.source, parsed.output, reward, parsed.processes, deadline_s=parsed.deadline_s)
    print(summary(tally.outcomes, parsed.output))
    return 1 if tally.is_in_vain else 0


def _report(parsed: argparse.Namespace) -> int:
    from ovt_ray.report.page import write_report

    print(write_report(parsed.run_dir))
    return 0


def _replay(parsed: argparse.Namespace) -> int:
    from ovt_ray.rl.replay import replay

    return 0 if replay(parsed.run_dir, parsed.stage, parsed.step, [parsed.only] if parsed.only else ["learn", "generate"]) else 1


def _export(parsed: argparse.Namespace) -> int:
    from ovt_ray.commands.export import export_traces

    print(export_traces(parsed.source, parsed.target))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from ovt_ray.commands.doctor import doctor

    return doctor()


def _outside_job_package(config: RunConfig) -> RunConfig:
    """Return the config with its run folder outside the copy of the working directory that Ray made for a job.

    Ray deletes that copy when it likes, so a relative `runs_dir` then starts at the home directory.
    """
    inside_copy = "working_dir_files" in Path.cwd().parts
    if config.runs_dir.is_absolute() or not inside_copy:
        return config
    return config.model_copy(update={"runs_dir": Path.home() / "ovt_ray" / config.runs_dir})


def _stop(signum: int, frame: FrameType | None) -> None:
    """End in order: services are closed on the way out."""
    raise _Terminated
