"""The run folder: the configuration of a run, its finished stages, and the process that uses it now.

    config.json            the resolved configuration
    ledger.jsonl           one line when a stage starts and one when it finishes
    iter<k>/<stage>/       files of each stage
    .lock                  held by the process that runs

Paths in the ledger are relative to the folder, so a copied folder can go on.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.errors import ConfigError
from ovt_ray.core.files import append_json_line, drop_torn_end, read_json_lines, write_json_atomically
from ovt_ray.run.results import StageResult, stage_key

FREE_KEYS = {"name", "runs_dir", "data.bad_rows"}
FREE_KEYS |= {"rollout.num_workers", "rollout.cpus_per_worker", "learner.checkpoint_every", "learner.weight_transport"}
FREE_KEYS |= {f"{service}.deadline_s" for service in ("rollout", "learner", "reward")} | {"iterations.grpo.keep_rollouts"}
FREE_KEYS |= {f"iterations.distil.endpoint.{key}" for key in ("url", "api_key_env", "concurrency", "num_attempts", "deadline_s")}
"""Keys that may have another value when a run goes on, in every iteration alike.

None of them changes a figure. They set names and places, workers, deadlines, checkpoints, the transport of weights, kept
rollouts, and the access to an endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """A finished stage, as the ledger records it."""

    stage: str
    """Name of the stage within the run: `iter1/grpo`."""
    time: str
    """Time of the stage's end, UTC, ISO 8601."""
    seconds: float
    """Time from its latest start to its end: a resumed stage counts from the resumption."""
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    result: StageResult | None
    """Result of the evaluation; None for a stage that leaves no model to evaluate."""

    @property
    def model(self) -> Path | None:
        """Folder of the model that the stage trained; None for a stage that trains none."""
        return trained_model(self.outputs)


class RunFolder:
    """One run's folder, held by this process until `close`; use it in a `with` statement."""

    def __init__(self, config: RunConfig) -> None:
        """Create the folder, or open the folder of an earlier run of the same configuration.

        Raises ConfigError if another process is using the folder, or if it holds a run of another configuration.
        """
        self.path = config.run_dir.resolve()
        self._ledger = self.path / "ledger.jsonl"
        self._started_at: dict[str, float] = {}
        self.path.mkdir(parents=True, exist_ok=True)
        # Before anything is read or repaired: another run may be writing its line.
        self._lock = _lock(self.path)
        try:
            # A process that died while it wrote left half a line, to which the next one would be glued.
            drop_torn_end(self._ledger)
            _store_config(self.path / "config.json", config, begun=any(row["event"] == "finished" for row in read_json_lines(self._ledger)))
        except BaseException:
            # Or the folder would stay locked as long as this process lives.
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes use the folder."""
        os.close(self._lock)

    def stage_folder(self, iteration: int, stage: str) -> Path:
        """Return the folder of a stage, created if necessary."""
        folder = self.path / stage_key(iteration, stage)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self, stage: str, inputs: Sequence[Path] = ()) -> None:
        """Note that a stage starts, or starts again. It does not count as finished until `finish`."""
        self._started_at[stage] = time.monotonic()
        self._append(stage, "started", inputs=self._stored(inputs))

    def finish(self, stage: str, outputs: Sequence[Path], result: StageResult | None = None) -> None:
        """Note that a stage that this process started is finished and has left these files or folders."""
        self._append(
            stage,
            "finished",
            seconds=round(time.monotonic() - self._started_at[stage], 3),
            outputs=self._stored(outputs),
            result=asdict(result) if result else None,
        )

    def finished(self, stage: str) -> StageRecord | None:
        """Return the record of a stage that is finished and whose outputs all still exist, else None."""
        events = [row for row in read_json_lines(self._ledger) if row["stage"] == stage]
        # The last event decides: a stage that was started again is not finished, whatever it was before.
        if not events or events[-1]["event"] != "finished":
            return None
        record = self._record(events)
        return record if all(path.exists() for path in record.outputs) else None

    def results(self) -> list[StageResult]:
        """Return the results of finished stages, in the order of their first start."""
        stages = dict.fromkeys(row["stage"] for row in read_json_lines(self._ledger))
        records = [self.finished(stage) for stage in stages]
        return [record.result for record in records if record and record.result]

    def _record(self, events: list[dict[str, Any]]) -> StageRecord:
        start = next(row for row in reversed(events) if row["event"] == "started")
        end = events[-1]
        return StageRecord(
            stage=end["stage"],
            time=end["time"],
            seconds=end["seconds"],
            inputs=tuple(self.path / path for path in start["inputs"]),
            outputs=tuple(self.path / path for path in end["outputs"]),
            result=StageResult(**end["result"]) if end["result"] else None,
        )

    def _append(self, stage: str, event: str, **fields: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_json_line(self._ledger, {"stage": stage, "event": event, "time": now, **fields})

    def _stored(self, paths: Sequence[Path]) -> list[str]:
        """Return paths as the ledger keeps them: relative to the folder if they are inside it."""
        whole = [path.resolve() for path in paths]
        return [str(path.relative_to(self.path) if path.is_relative_to(self.path) else path) for path in whole]


def model_folder(stage_folder: Path) -> Path:
    """Return the folder of the model that a stage trains."""
    return stage_folder / "model"


def trained_model(outputs: Sequence[Path]) -> Path | None:
    """Return the folder of the trained model among the outputs of a stage, None if it trains none."""
    return next((path for path in outputs if path == model_folder(path.parent)), None)


def _lock(folder: Path) -> int:
    """Return the open descriptor of the folder's lock. The system releases it when this process ends in any way."""
    # Not inherited (CLOEXEC): a child that lives on would keep the folder locked.
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise ConfigError(
            f"{folder} is being used by {holder}: wait for it, end it, or give this run another name with name=NAME"
        ) from error
    # Only with the lock: until then the file names the process that holds it.
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def _store_config(path: Path, config: RunConfig, begun: bool) -> None:
    """Write the configuration of a run that has not finished a stage. Raise ConfigError if a finished stage had another one."""
    now = config.model_dump(mode="json")
    # Nothing depends on the configuration before a stage is finished, so it may still be corrected.
    if not path.exists() or not begun:
        write_json_atomically(path, now)
        return
    before, now = _flat(json.loads(path.read_text())), _flat(now)
    keys = [key for key in {**before, **now} if _unnumbered(key) not in FREE_KEYS and before.get(key, "absent") != now.get(key, "absent")]
    if keys:
        changes = [f"  {key}: {before.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} now" for key in keys]
        advice = f"give this run another name with name=NAME, or delete {path.parent}"
        raise ConfigError("\n".join([f"{path.parent} holds a run of another configuration; {advice}", *changes]))


def _unnumbered(key: str) -> str:
    """Return a dotted key without the places of lists."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings and lists by dotted key."""
    if isinstance(tree, dict):
        children = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list):
        children = [(str(position), value) for position, value in enumerate(tree)]
    else:
        return {prefix: tree}
    leaves: dict[str, object] = {}
    for key, value in children:
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return leaves
