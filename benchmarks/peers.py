"""Measures the seconds of a GRPO step of ovt_ray's services and of TRL's GRPOTrainer. The two take turns step by step.

    python -m benchmarks.peers [CONFIG] [key=value ...]

Both do the work of the config's first RL stage from the same untrained model, in float32 on the same cores. They use the same fresh
problems with images, the same number of completions with the same limit, one optimizer step, no KL and a trivial reward. An untrained model
nearly always reaches the limit, and the table shows the tokens. Seconds are medians of the steps after the first, and so is the speed-up of
a pair of steps. On a machine that others use, the processor time is more reliable.

TRL lives in `build/peers`, a virtual environment that the first call makes. It has the extra `peers` of pyproject.toml on top of the
project's own packages, which include torch and transformers. `docs/log.md` lists the settings of TRL that were tried. The last line is a
JSON object.
"""

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.step import PHASES, begin, num_completion_tokens, timed_step
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import Problem
from ovt_ray.services import Services
from ovt_ray.world import build_tiny_model, world_problems

NUM_STEPS = 6
"""Number of pairs of steps that count, after a warm-up pair."""
ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / "build" / "peers"
ROWS_PER_BATCH = 64
"""Completions per forward and backward pass of TRL. 32 and 128 are equally fast, and 256 is slower."""
TRL_PHASES = ("generate", "prepare", "logprobs", "forward", "backward", "rest")
OVERRIDES = ["reward.parts=[{name: 'benchmarks.trivial_reward:score'}]"]


class TrlSteps:
    """TRL's trainer in a process of its own, which takes a step at a time."""

    def __init__(self, job: Mapping[str, Any], log: Path) -> None:
        """Start the trainer and wait until it is ready for a step. Raises RuntimeError with the end of its log if it fails."""
        threads = str(job["threads"])
        # Passive: where others use the cores, spinning threads cost many times more than they save.
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [peer_python(), "-m", "benchmarks.trl_steps"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=ROOT,
                text=True,
            )
        self.pid = self._process.pid
        self._ask(json.dumps(job))

    def step(self) -> dict[str, float]:
        """Take a step and return its figures."""
        return self._ask("")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # the process ended, so no answer follows
            print(line, file=self._process.stdin, flush=True)
        for answer in self._process.stdout:
            if answer.startswith("{"):  # libraries also print to standard output during their import
                return json.loads(answer)
        raise RuntimeError(f"TRL failed:\n{self._log.read_text()[-2000:]}")


def peer_python() -> str:
    """Return the interpreter of TRL's environment. Makes the environment if it is missing or outdated."""
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".installed"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["peers"]
    if not done.exists() or done.read_text() != str(wanted):
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        own = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
        # As a site folder, not a path, so that its .pth files run here and repair torchvision too.
        Path(own, "project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "requirements-cpu.lock", *wanted]
        if (installed := subprocess.run(install, capture_output=True, text=True)).returncode:
            raise RuntimeError(f"installing {' and '.join(wanted)} failed:\n{installed.stderr[-2000:]}")
        done.write_text(str(wanted))
    return str(python)


def main(arguments: Sequence[str]) -> None:
    """Alternate the steps of both sides, and print the tables and the figures as JSON."""
    path, overrides = (arguments[0], arguments[1:]) if arguments else ("configs/tiny.yaml", [])
    config = load_config(Path(path), [*OVERRIDES, *overrides])
    section = config.iterations[0].grpo
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        build_tiny_model(Path(model), config.seed)
        problems = world_problems("train", section.problems_per_step * (NUM_STEPS + 1), config.seed, Path(folder) / "images")
        ours, theirs = take_turns(config, model, problems, Path(folder) / "trl.log")
    report(ours[1:], theirs[1:])


def take_turns(config: RunConfig, model: str, problems: Sequence[Problem], log: Path) -> tuple[list[dict[str, float]], ...]:
    """Return the figures of each step of ours and of TRL's, which see the same problems."""
    size = config.iterations[0].grpo.problems_per_step
    ours, theirs = [], []
    with contextlib.closing(TrlSteps(trl_job(config, model, problems), log)) as trl, Services(config, model) as services:
        begin(services, config, model, num_updates=NUM_STEPS + 1)
        for step in range(NUM_STEPS + 1):
            before = cpu_seconds(os.getpid(), without=trl.pid)
            seconds, groups = timed_step(services, config, problems[step * size : (step + 1) * size], step)
            tokens = {
                "prompt_tokens": sum(len(scored.group.prompt_ids) * len(scored.scores) for scored in groups),
                "tokens": num_completion_tokens(groups),
            }
            cpu_s = cpu_seconds(os.getpid(), without=trl.pid) - before
            ours.append({**seconds, **tokens, "cpu": cpu_s, "step": sum(seconds.values())})
            before = cpu_seconds(trl.pid)
            figures = trl.step()
            theirs.append({**figures, **trl_phases(figures), "cpu": cpu_seconds(trl.pid) - before})
            print(
                f"step {step}: ovt_ray {ours[-1]['step']:.2f} s, TRL {theirs[-1]['step']:.2f} s, load {os.getloadavg()[0]:.1f}", flush=True
            )
    return ours, theirs


def trl_job(config: RunConfig, model: str, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return TRL's job: the work of the config's first RL stage, with the settings that suit TRL best."""
    section, prompts = config.iterations[0].grpo, Prompts(model, config.model)
    num_rows = section.problems_per_step * section.num_completions
    optimizer = section.optimizer
    settings = {
        "max_steps": NUM_STEPS + 1,
        "per_device_train_batch_size": min(ROWS_PER_BATCH, num_rows),
        "gradient_accumulation_steps": max(1, num_rows // ROWS_PER_BATCH),
        "num_generations": section.num_completions,
        "max_completion_length": config.max_completion_tokens,
        "temperature": section.temperature,
        "learning_rate": optimizer.learning_rate,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "optim": "adamw_torch_fused",
        "beta": 0.0,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "generation_kwargs": {"suppress_tokens": list(prompts.placeholder_ids)},
        "shuffle_dataset": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    return {
        "model": model,
        "threads": max(
            config.rollout.num_workers * config.rollout.cpus_per_worker, config.learner.num_ranks * config.learner.cpus_per_rank
        ),
        "freeze_vision": set(optimizer.freeze) == {"vision_tower", "projector"},
        "rows": [{"prompt": prompts.messages(problem), "images": list(problem.images)} for problem in problems],
        "settings": settings,
    }


def cpu_seconds(pid: int, without: int | None = None) -> float:
    """Return the processor time so far of a process and its children, without the child `without`."""
    process = psutil.Process(pid)
    seconds = 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(member.cpu_times()[:2]) if member.pid != without else 0.0
    return seconds


def trl_phases(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of TRL's phases, whose sum is the step. TRL's trainer generates within its first training step."""
    rollout, training = figures["rollout"], figures["training"]
    logprobs, forward = figures.get("logprobs", 0.0), figures["forward"]
    return {
        "generate": figures["generate"],
        "prepare": rollout - figures["generate"] - logprobs,
        "logprobs": logprobs,
        "forward": forward,
        "backward": training - rollout - forward,
        "rest": figures["step"] - training,
    }


def report(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> None:
    """Print a table of phases for each side, and the JSON line."""
    for name, steps, phases in (("ovt_ray", ours, PHASES), ("TRL", theirs, TRL_PHASES)):
        total = middle(steps, "step")
        print(f"\n{name:<14}{'seconds':>9}{'share':>8}")
        for phase in phases:
            print(f"{phase:<14}{middle(steps, phase):>9.3f}{middle(steps, phase) / total:>8.0%}")
        print(f"{'step':<14}{total:>9.3f}\n{'processor':<14}{middle(steps, 'cpu'):>9.3f}")
        print(f"{'prompt tokens':<14}{middle(steps, 'prompt_tokens'):>9,.0f}\n{'tokens':<14}{middle(steps, 'tokens'):>9,.0f}")
    figures = {
        "seconds_per_step": middle(ours, "step"),
        "trl_seconds_per_step": middle(theirs, "step"),
        "speedup_over_trl": median(their["step"] / our["step"] for our, their in zip(ours, theirs, strict=True)),
        "cpu_seconds_per_step": middle(ours, "cpu"),
        "trl_cpu_seconds_per_step": middle(theirs, "cpu"),
        "tokens_per_step": middle(ours, "tokens"),
        "trl_tokens_per_step": middle(theirs, "tokens"),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def middle(steps: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the median of a figure over the steps."""
    return median(step[name] for step in steps)


if __name__ == "__main__":
    main(sys.argv[1:])
