"""Lines of the log as a file and as a terminal get them, by level."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest

from ovt_ray.run.logs import PACKAGES, show_logs
from ovt_ray.run.progress import Progress, phase

LOGGER = logging.getLogger("ovt_ray.somewhere")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def kept_levels() -> Iterator[None]:
    """Leave the loggers as they were."""
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger, logger.level, logger.handlers) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


def said(level: int, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    with redirect_stdout(stream):
        show_logs(level)
        show_logs(level)
        LOGGER.debug("attempt %d failed", 2)
        LOGGER.info("[iter1/grpo] accuracy 96.2%")
        logging.getLogger("actors.pool").warning("a worker is replaced")
        logging.getLogger("another.library").info("no line of ours")
        with phase("loading"), Progress("iter1/sft", 1) as progress:
            progress.step(0, {"loss": 0.5})
    return stream.getvalue()


def test_a_file_gets_each_message_once_as_a_line_of_its_own() -> None:
    *lines, last = said(logging.INFO).splitlines()
    assert lines == [
        "[iter1/grpo] accuracy 96.2%",
        "a worker is replaced",
        "loading ...",
        "[iter1/sft 1/1] loss 0.500 eta 0:00",
    ]
    assert last == "loading: done in 0.0 s"


def test_quiet_leaves_warnings_alone() -> None:
    assert said(logging.WARNING) == "a worker is replaced\n"
    shown = said(logging.WARNING, Terminal())
    assert "a worker is replaced" in shown and "iter1" not in shown and "loading" not in shown


def test_verbose_adds_details_and_names_time_and_module() -> None:
    first, second, *_ = said(logging.DEBUG).splitlines()
    assert first.endswith(" DEBUG ovt_ray.somewhere: attempt 2 failed") and second.endswith(": [iter1/grpo] accuracy 96.2%")


def test_a_terminal_gets_the_same_lines_and_a_bar() -> None:
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said(logging.INFO, Terminal()))
    for line in ("[iter1/grpo] accuracy 96.2%", "a worker is replaced", "loading ...", "1/1"):
        assert line in shown
    assert "[iter1/sft 1/1]" not in shown


def test_a_terminal_gets_long_lines_whole() -> None:
    terminal = Terminal()
    with redirect_stdout(terminal):
        show_logs(logging.INFO)
        LOGGER.info("run folder: %s", "a/" * 200)
    assert "a/" * 200 in terminal.getvalue()


def test_the_output_is_the_one_of_the_moment() -> None:
    show_logs(logging.INFO)
    later = io.StringIO()
    with redirect_stdout(later):
        LOGGER.info("to whoever reads now")
    assert later.getvalue() == "to whoever reads now\n"


def test_an_output_that_is_closed_ends_the_command() -> None:
    closed = io.StringIO()
    closed.close()
    show_logs(logging.INFO)
    with redirect_stdout(closed), pytest.raises(ValueError, match="closed file"):
        LOGGER.info("into nowhere")
