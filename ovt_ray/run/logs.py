"""The log of a command: the shown lines, and their form in a terminal and in a file.

Each module logs to `logging.getLogger(__name__)`. Only the driver's process shows its log. The results of a command, such as the table of
stages, are not part of the log. They are always printed.
"""

import logging
import sys

PACKAGES = ("ovt_ray", "actors", "learner", "reward")
DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LineHandler(logging.Handler):
    """Prints each message as a line. As with `print`, an output that cannot be written raises an error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)  # flushed line by line: a job's log is followed while it grows


class TerminalHandler(logging.Handler):
    """Prints each message above the progress bar. Long lines stay whole, so that a path can be copied."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        get_console().print(self.format(record), markup=False, soft_wrap=True)


def show_logs(level: int = logging.INFO) -> None:
    """Show messages of this level and above on the standard output. With DEBUG each message names its time and its module."""
    handler: logging.Handler = TerminalHandler() if sys.stdout.isatty() else LineHandler()
    if level <= logging.DEBUG:
        handler.setFormatter(logging.Formatter(DETAILED))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [handler]
