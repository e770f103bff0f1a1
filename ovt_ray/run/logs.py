"""The log of a command: which lines are shown, and how they look in a terminal and in a file.

Each module logs to `logging.getLogger(__name__)`. Only the driver's process shows its log. The results of a command, such as the table of
stages, are no log: they are printed, however quiet it is asked to be.
"""

import logging
import sys

PACKAGES = ("ovt_ray", "actors", "learner", "reward")
DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LineHandler(logging.Handler):
    """Prints each message as a line. As with any `print`, an output that cannot be written to is an error of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)  # flushed line by line: a job's log is followed while it grows


def show_logs(level: int = logging.INFO) -> None:
    """Show messages of this level and above on the standard output; with DEBUG each names its time and its module."""
    handler = _terminal_handler() if sys.stdout.isatty() else LineHandler()
    if level <= logging.DEBUG:
        handler.setFormatter(logging.Formatter(DETAILED))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [handler]


def _terminal_handler() -> logging.Handler:
    from rich import get_console
    from rich.logging import RichHandler

    # The console that the progress bar is on too, so that lines appear above the bar and do not break it.
    return RichHandler(console=get_console(), show_level=False, show_path=False, log_time_format="%X")
