"""The command line `ovt-ray`, also `python -m ovt_ray`: it finds the command, and turns errors and signals into exit statuses.

Nothing heavy is imported before the configuration is known to be good.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Protocol, cast

from ovt_ray.commands.shadow import check_no_shadow
from ovt_ray.core.errors import OvtError
from ovt_ray.run.logs import show_logs

COMMANDS = ("run", "check", "data", "score", "report", "replay", "export-data", "doctor")
"""Each command is the file of this name in `ovt_ray/commands/`, with `_` for `-`."""


class Command(Protocol):
    """The contents of a command's file."""

    SUMMARY: str
    """One line for the list of commands."""
    DESCRIPTION: str | None
    """Text above the arguments in the command's own help; None for none."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to its parser."""

    def main(self, parsed: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM: stops a run in the same order as Ctrl-C does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 an error that the message explains, 130 and 143 when stopped."""
    commands = {name: cast(Command, import_module(f"ovt_ray.commands.{name.replace('-', '_')}")) for name in COMMANDS}
    parsed = parser_of(commands).parse_args(arguments)
    show_logs(parsed.log_level)
    signal.signal(signal.SIGTERM, _stop)
    try:
        check_no_shadow(Path.cwd())
        return commands[parsed.command].main(parsed)
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
        onwards = "goes on from here" if parsed.command == "run" else "starts afresh"
        print(f"\nstopped; the same command {onwards}", file=sys.stderr, flush=True)
        return 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)


def parser_of(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser of the command line, from each command by its name."""
    parser = argparse.ArgumentParser(prog="ovt-ray", description="Train a vision-language model to reason: distil, SFT, GRPO, again.")
    _add_loudness(parser, default=logging.INFO)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        sub = parsers.add_parser(name, help=command.SUMMARY, description=command.DESCRIPTION)
        _add_loudness(sub, default=argparse.SUPPRESS)  # a default would overwrite the value from before the command's name
        command.add_arguments(sub)
    return parser


def _add_loudness(parser: argparse.ArgumentParser, *, default: int | str) -> None:
    """Add -v and -q, which may stand before or after the command's name."""
    loudness = parser.add_mutually_exclusive_group()
    for flag, name, level, summary in (
        ("-v", "--verbose", logging.DEBUG, "log details, with time and module"),
        ("-q", "--quiet", logging.WARNING, "log warnings alone"),
    ):
        loudness.add_argument(flag, name, dest="log_level", action="store_const", const=level, default=default, help=summary)


def _stop(signum: int, frame: FrameType | None) -> None:
    """End in order: services are closed on the way out."""
    raise _Terminated
