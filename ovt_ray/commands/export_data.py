"""`ovt-ray export-data`: the traces of a run, in a file of another trainer."""

import argparse
import json
from pathlib import Path

from ovt_ray.core.errors import DataError

SUMMARY = "write a run's traces for LLaMA-Factory or EasyR1"
DESCRIPTION = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the traces and the file to write."""
    parser.add_argument("source", type=Path, metavar="TRACES", help="for example runs/NAME/iter1/distil/traces.jsonl")
    parser.add_argument("target", type=Path, metavar="OUT", help="OUT.json for LLaMA-Factory, OUT.parquet for EasyR1")


def main(parsed: argparse.Namespace) -> int:
    """Write the file and print how it is used."""
    print(export_traces(parsed.source, parsed.target))
    return 0


def export_traces(source: Path, target: Path) -> str:
    """Write the traces of a run to a file of another trainer; return a line for people about its content and its use."""
    if target.suffix not in (".json", ".parquet"):
        raise DataError(f"{target}: must end in .json (LLaMA-Factory) or .parquet (EasyR1)")
    if not source.is_file():
        raise DataError(f"{source}: no such file; give a traces.jsonl, such as runs/NAME/iter1/distil/traces.jsonl")
    from ovt_ray.data.export import DATASET_INFO, write_easyr1, write_llama_factory
    from ovt_ray.distil import read_traces

    traces = read_traces(source)
    if target.suffix == ".parquet":
        write_easyr1(target, [trace.problem for trace in traces])
        return f"{target}: {len(traces)} problems, without their responses; EasyR1's data.train_files with prompt_key=problem"
    write_llama_factory(target, traces)
    entry = json.dumps({target.stem: {"file_name": target.name} | DATASET_INFO})[1:-1]
    return f"{target}: {len(traces)} traces; in LLaMA-Factory's dataset_info.json: {entry}"
