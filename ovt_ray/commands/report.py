"""`ovt-ray report`: the report of a run folder, written again."""

import argparse
from pathlib import Path

SUMMARY = "write report.html and curves.png of a run folder again"
DESCRIPTION = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run folder."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_FOLDER")


def main(parsed: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from ovt_ray.report.page import write_report

    print(write_report(parsed.run_dir))
    return 0
