"""What all stages share: which are finished, where they write, the services they run on, and the newest model."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.seeds import stable_seed
from ovt_ray.data.tasks import Tasks
from ovt_ray.run.ledger import RunFolder, StageRecord, trained_model
from ovt_ray.run.progress import phase
from ovt_ray.run.results import StageResult, stage_key, write_results
from ovt_ray.services import Services

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One stage while it runs."""

    iteration: int
    """0 for the base model."""
    name: str
    """`base`, `distil`, `sft` or `grpo`."""
    folder: Path
    """Folder of all that the stage writes."""
    seed: int
    """The stage's own seed, which follows from the run's seed and the key."""
    began: float
    """Monotonic time of the start, in seconds."""

    @property
    def key(self) -> str:
        """Name within the run: `iter1/grpo`."""
        return stage_key(self.iteration, self.name)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, which exists only until the stage is finished."""
        return self.folder / "checkpoints"


class Session:
    """The work of one process on a run, stage after stage; use it in a `with` statement.

    Stages that an earlier session finished are kept. The first other stage starts the services; between stages the rollout workers
    serve the newest model.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, tasks: Tasks, first_model: str) -> None:
        """`first_model` is the folder or hub name of the model that no stage has trained."""
        self.config = config
        self.folder = folder
        self.tasks = tasks
        self.held_out = tasks.held_out()
        self.first_model = first_model
        self.newest_model = first_model
        """Folder or hub name of the model that the last stage with a model left, whether the stage ran now or was kept."""
        self._has_run = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # A look past the property, which would start the services only to close them.
        if "services" in self.__dict__:
            self.services.__exit__(*error)

    @cached_property
    def services(self) -> Services:
        """The services, started with the newest model."""
        with phase("starting the services"):
            return Services(self.config, self.newest_model)

    @cached_property
    def prompts(self) -> Prompts:
        """Tokenizer and chat template of the run's model."""
        return Prompts(self.first_model, self.config.model)

    def kept(self, iteration: int, name: str) -> StageRecord | None:
        """Return the record of a stage that was finished before, None for a stage that has to run.

        Once a stage runs, all later stages run too: their inputs may differ.
        """
        key = stage_key(iteration, name)
        record = self.folder.finished(key)
        if record is None or self._has_run:
            return None
        self._remove_checkpoints(key)  # the process may have died between the ledger's line and their removal
        self._note_model(record.outputs)
        logger.info("[%s] finished before, kept", key)
        return record

    def start(self, iteration: int, name: str, inputs: Sequence[Path] = ()) -> StageRun:
        """Note that a stage starts, or goes on from its last checkpoint."""
        key = stage_key(iteration, name)
        if self._has_run:
            self._remove_checkpoints(key)  # they belong to an attempt with other inputs
        # Only now: the first stage of a session may go on from its checkpoints, all later ones may not.
        self._has_run = True
        # Before anything is written: from here on, outputs of an earlier attempt do not count.
        self.folder.start(key, inputs)
        folder = self.folder.stage_folder(iteration, name)
        return StageRun(iteration=iteration, name=name, folder=folder, seed=stable_seed(self.config.seed, key), began=time.monotonic())

    def finish(self, stage: StageRun, outputs: Sequence[Path], result: StageResult | None = None) -> None:
        """Note that a stage is finished, and remove its checkpoints. The ledger comes first: without it the stage would run again."""
        self._note_model(outputs)
        self.folder.finish(stage.key, outputs, result)
        if result:
            write_results(self.folder.path, self.folder.results())
        # Last: until the ledger has the stage, a restart needs them.
        self._remove_checkpoints(stage.key)

    def _note_model(self, outputs: Sequence[Path]) -> None:
        if model := trained_model(outputs):
            self.newest_model = str(model)

    def _remove_checkpoints(self, key: str) -> None:
        shutil.rmtree(self.folder.path / key / "checkpoints", ignore_errors=True)
