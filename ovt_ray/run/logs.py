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


def show_logs(level: int = logging.INFO) -> None:
    """Show messages of this level and above on the standard output. With DEBUG each message names its time and its module."""
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

    # On the console of the progress bar, so that lines appear above the bar and do not break it.
    return RichHandler(console=get_console(), show_level=False, show_path=False, log_time_format="%X")
