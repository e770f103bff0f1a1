"""Measures the driver's start with many problems: seconds and memory to read and shuffle them, the first time and later.

    python -m benchmarks.data [NUM_PROBLEMS] [NUM_IMAGES]

Writes a file of JSON lines about PNG files to a temporary folder, then starts two processes on it, one after the other. The first checks
every row and image. The second maps the first one's Arrow file, holds problems out, shuffles, and takes the batches of 100 steps. The last
line is a JSON object:

- `first_s`: seconds of the first process.
- `start_s` and `start_cpu_s`: wall-clock and processor seconds of the second, with the interpreter's start in the latter.
- `peak_mb`: peak resident memory of the second.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

NUM_PROBLEMS = 100_000
NUM_IMAGES = 2_000


def main(arguments: Sequence[str]) -> None:
    """Print the figures of a first and a later start."""
    if arguments[:1] == ["start"]:
        return start(Path(arguments[1]))
    num_problems, num_images = [int(argument) for argument in arguments] or [NUM_PROBLEMS, NUM_IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        write_problems(Path(folder), num_problems, num_images)
        first, later = started(folder), started(folder)
    print(json.dumps({"num_problems": num_problems, "num_images": num_images, "first_s": first["start_s"], **later}))


def started(folder: str) -> dict[str, float]:
    """Return the figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", "start", folder]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    print("\n".join(lines[:-1]), flush=True)
    return json.loads(lines[-1])


def start(folder: Path) -> None:
    """Print the cost of loading and ordering the problems, and of 100 batches."""
    began = time.monotonic()
    from ovt_ray.core.config.data import DataConfig
    from ovt_ray.data.sources import load_problems
    from ovt_ray.data.stream import ItemStream

    loaded = load_problems(DataConfig(format="jsonl", path=folder / "problems.jsonl"), folder / "kept")
    stream = ItemStream.of(loaded.train, seed=0)
    num_different = len({problem.id for problem in stream.take(0, 3200)})
    assert num_different == min(3200, len(stream))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"start_s": round(time.monotonic() - began, 2), "start_cpu_s": round(time.process_time(), 2), "peak_mb": round(peak_mb)}
    print(json.dumps(figures))


def write_problems(folder: Path, num_problems: int, num_images: int) -> None:
    """Write a file of problems about pictures of 200 x 150 pixels, with questions and solutions of TabMWP's length."""
    from PIL import Image

    for number in range(num_images):
        Image.effect_noise((200, 150), 50 + number / num_images).convert("RGB").save(folder / f"{number}.png")
    words = random.Random(0)
    with (folder / "problems.jsonl").open("w") as file:
        for number in range(num_problems):
            row = {
                "id": f"problem-{number}",
                "question": " ".join(words.choices(["how", "many", "bars", "stand", "left", "of", "blue", "ones"], k=30)) + "?",
                "images": [f"{number % num_images}.png"],
                "answer": str(words.randrange(1000)),
                "source": f"source-{number % 5}",
                "solution": " ".join(words.choices(["first", "count", "then", "add", "so", "there", "are", "more"], k=60)),
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
