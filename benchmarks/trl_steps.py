"""TRL's side of `benchmarks.peers`, in an environment of its own: a JSON line of figures for each step.

Standard input gives the job as a JSON line, and then a line as permission for each step, so that the two sides take turns.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, Image
from datasets import List as ListOf
from transformers import AutoModelForImageTextToText, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer


class TimedTrainer(GRPOTrainer):
    """TRL's trainer with a sum of seconds for each phase, some within others, and a count of its tokens.

    TRL has such figures too, but reports them only to a tracking service.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.figures: Counter[str] = Counter()

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.figures[phase] += time.monotonic() - began  # type: ignore[assignment]  # Counter is typed for integers

    def _generate_single_turn(self, prompt_ids: list[list[int]], *arguments: Any, **named: Any) -> Any:
        with self._timed("generate"):
            completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *arguments, **named)
        self.figures["prompt_tokens"] += sum(map(len, prompt_ids))
        self.figures["tokens"] += sum(map(len, completion_ids))
        return completion_ids, logprobs

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self._timed("rollout"):
            return super()._generate_and_score_completions(inputs)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        with self._timed("forward" if torch.is_grad_enabled() else "logprobs"):
            return super()._get_per_token_logps_and_entropies(*arguments, **named)

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        with self._timed("training"):
            return super().training_step(*arguments, **named)


class Turns(TrainerCallback):
    """Reports each step and waits for permission to take the next step."""

    def __init__(self, figures: Counter[str]) -> None:
        self._figures = figures
        self._answers = sys.stdout
        self._began = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        self._report()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        self._figures["step"] = time.monotonic() - self._began  # type: ignore[assignment]
        self._report()

    def _report(self) -> None:
        print(json.dumps(self._figures), file=self._answers, flush=True)
        sys.stdin.readline()
        self._figures.clear()
        self._began = time.monotonic()


def trivial_reward(completions: list[Any], **columns: Any) -> list[float]:
    """Return 0 and 1 alternately, so that no group has zero variance."""
    return [float(index % 2) for index in range(len(completions))]


def main() -> None:
    """Train with the job's settings."""
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=torch.float32)
    model.model.visual.requires_grad_(not job["freeze_vision"])
    dataset = Dataset.from_list(job["rows"]).cast_column("images", ListOf(Image()))
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(model, trivial_reward, args=GRPOConfig(output_dir=folder, **job["settings"]), train_dataset=dataset)
        trainer.add_callback(Turns(trainer.figures))
        with contextlib.redirect_stdout(sys.stderr):  # only figures go to standard output
            trainer.train()


if __name__ == "__main__":
    main()
