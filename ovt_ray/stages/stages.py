"""The stages of the recipe, each done once: what it reads, what it runs, what it leaves."""

import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from learner.checkpoints import newest
from learner.stage import Stage
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.stages import DistilConfig, GrpoConfig, SftConfig
from ovt_ray.core.errors import StageError
from ovt_ray.core.prompts import Prompts, model_path
from ovt_ray.core.types import Problem, Trace
from ovt_ray.data.difficulty import measured_before, write_pass_rates
from ovt_ray.data.order import shuffled, stable_seed
from ovt_ray.data.tasks import Tasks, Wanted
from ovt_ray.distil import read_traces, select, write_traces
from ovt_ray.distillation.chains import Chains, chains_by_dataset, chains_by_policy, keep_chains, read_chains
from ovt_ray.distillation.endpoint import chains_by_endpoint
from ovt_ray.distillation.teachers import Teachers
from ovt_ray.evaluate import Evaluation, evaluate
from ovt_ray.grpo import train_grpo
from ovt_ray.report.samples import SampleRecord, write_samples
from ovt_ray.rl.checkpoint import StreamState, read_state
from ovt_ray.rl.parity import check_parity, parity_samples
from ovt_ray.rl.rollouts import forget_rollouts
from ovt_ray.rl.stage import GrpoStage, grpo_stage
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.progress import phase
from ovt_ray.run.recorder import Recorder
from ovt_ray.run.results import measured, stage_key, write_results
from ovt_ray.services import Services
from ovt_ray.sft import hold_out, num_sft_steps, trace_samples, train_sft

NUM_PARITY_PROBLEMS = 8


class Stages:
    """Runs stages on services that are started when the first unfinished stage needs them.

    Between stages the rollout workers serve the model that the last finished stage left.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, tasks: Tasks) -> None:
        self.config = config
        self.folder = folder
        self.tasks = tasks
        self._newest_model = self._first_model
        self._has_run = False
        self._held_out = tasks.held_out()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if "services" in self.__dict__:
            self.services.__exit__(*error)

    @cached_property
    def _first_model(self) -> str:
        """The model that nothing of this run has trained: a folder or hub name, or random weights if the run trains its base."""
        if self.config.base is None:
            return model_path(self.config.model)
        folder = self.folder.stage_folder(0, "init")
        if not self.folder.finished("iter0/init"):
            from ovt_ray.world import build_tiny_model

            with phase("building the embedded model with random weights"):
                self.folder.start("iter0/init")
                build_tiny_model(folder, self.config.seed)
                self.folder.finish("iter0/init", [folder])
        return str(folder)

    @cached_property
    def services(self) -> Services:
        """The services, started with the newest model."""
        assert self.prompts, "a wrong model path is refused before anything is started"
        with phase("starting the services"):
            return Services(self.config, self._newest_model)

    @cached_property
    def prompts(self) -> Prompts:
        """Tokenizer of the run's model."""
        return Prompts(self._first_model, self.config.model)

    def base(self) -> str:
        """Return the base model, evaluated: as it is, or trained from random weights if the config says so."""
        key = stage_key(0, "base")
        if (outputs := self._done(key)) is not None:
            return str(outputs[0]) if outputs else self._first_model
        began = self._start(key, [])
        if self.config.base is None:
            self._finish(0, "base", began, [])
            return self._first_model
        from ovt_ray.world import base_traces

        with phase("drawing the base corpus"):
            section = self.config.base
            assert section.num_steps, "the config refuses a base that is trained by epochs"
            corpus = base_traces(section.num_steps * section.batch_size, stable_seed(self.config.seed, key), self.tasks.image_folder)
        traces = [Trace(problem=problem, response=response) for problem, response in corpus]
        return self._train_sft(0, "base", section, self._first_model, traces, began)

    def distil(self, iteration: int, section: DistilConfig) -> Path:
        """Return the file of verified traces of an iteration."""
        key = stage_key(iteration, "distil")
        if outputs := self._done(key):
            return outputs[0]
        self._start(key, [])
        measured_by = measured_before(self.folder.path, iteration, "distil")
        problems = self.tasks.train(
            Wanted(purpose=key, num=section.num_problems, choice=section.problems, measured_by=measured_by, hard=section.hard)
        )
        chains = self._all_chains(key, section, problems)
        if section.source == "caption":
            self.services.start_rollout()  # in the background, while the next stage begins
        if section.source != "dataset":  # a worked solution says nothing about how difficult its problem is
            answered = [(one.problem, one.scores) for one in chains]
            write_pass_rates(self.folder.stage_folder(iteration, "distil"), answered)
        selection = select(chains, section, self._held_out, stable_seed(self.config.seed, key))
        report = selection.report
        print(f"[{key}] {report.summary}", flush=True)
        if not selection.traces:
            fates = report.fates
            raise StageError(
                f"{key}: none of {report.num_responses} responses to {report.num_problems} problems gives a trace "
                f"({report.num_correct} correct, {fates['unparseable']} without a final answer, {fates['unscorable']} unscorable): "
                "use easier problems, more chains, another source, or other filters"
            )
        path = write_traces(self.folder.stage_folder(iteration, "distil"), selection)
        self.folder.finish(key, [path])
        shutil.rmtree(self._checkpoints(key))
        return path

    def sft(self, iteration: int, section: SftConfig, base: str, traces: Path) -> str:
        """Return the model that an iteration's traces make of the base model."""
        key = stage_key(iteration, "sft")
        if outputs := self._done(key):
            return str(outputs[0])
        began = self._start(key, [traces])
        return self._train_sft(iteration, "sft", section, base, read_traces(traces), began)

    def grpo(self, iteration: int, section: GrpoConfig, model: str, traces: Path | None) -> str:
        """Return the model that reinforcement learning makes of another, the last traces mixed in if the section says so."""
        key = stage_key(iteration, "grpo")
        if outputs := self._done(key):
            return str(outputs[0])
        mixed_in = traces if section.sft_coef else None
        began = self._start(key, [path for path in (Path(model), mixed_in) if path and path.exists()])  # a base may be a hub name
        samples = trace_samples(read_traces(mixed_in), self.prompts) if mixed_in else []
        stage = grpo_stage(self.config, iteration, self.tasks, traces=samples, run_dir=self.folder.path)
        state = self._begin_grpo(key, stage, model)
        if state.step == 0:
            forget_rollouts(stage.folder)
            state = replace(state, rollout_is_exact=self._passes_gate(key, stage) and not section.cuts)
        take_spans = self.services.take_spans
        with Recorder(self.folder.path, key, num_steps=section.num_steps, first_step=state.step, take_spans=take_spans) as recorder:
            train_grpo(stage, self.services, recorder, state)
        return self._finish_training(iteration, "grpo", began, section.num_steps)

    def _all_chains(self, key: str, section: DistilConfig, problems: Sequence[Problem]) -> list[Chains]:
        """Return the chains of all problems, in their order; those on the disk from an interrupted attempt are not asked for again."""
        path = self._checkpoints(key) / "chains.jsonl"
        before = read_chains(path, problems)
        left = [problem for problem in problems if problem.id not in before]
        with closing(self._chains(key, section, left)) as chains:  # an interrupted source ends its engines
            asked = keep_chains(path, chains, key, num_before=len(before), num_problems=len(problems))
        all_chains = before | {chains.problem.id: chains for chains in asked}
        return [all_chains[problem.id] for problem in problems]

    def _chains(self, key: str, section: DistilConfig, problems: Sequence[Problem]) -> Generator[Chains]:
        seed = stable_seed(self.config.seed, key)
        if section.source == "policy":
            return chains_by_policy(self.services, problems, section, max_tokens=self.config.max_completion_tokens, seed=seed)
        if section.source == "dataset":
            return chains_by_dataset(self.services, problems)
        if section.source == "endpoint":
            return chains_by_endpoint(self.services, problems, section, self.config.model.max_pixels, seed)
        self.services.end_rollout(self._newest_model)
        teachers = Teachers(captioner=self.config.captioner, reasoner=self.config.reasoner, rollout=self.config.rollout, seed=seed)
        captions = teachers.captions(problems, self._checkpoints(key) / "captions.jsonl", key)
        return teachers.chains(self.services.reward, problems, captions, section.num_chains)

    def _train_sft(self, iteration: int, stage: str, section: SftConfig, model: str, traces: Sequence[Trace], began: float) -> str:
        key = stage_key(iteration, stage)
        seed = stable_seed(self.config.seed, key)
        samples, held_out = hold_out(trace_samples(traces, self.prompts), section.validation_share, seed)
        num_steps = num_sft_steps(section, len(samples))
        first_step = self._begin(key, Stage(model_path=model, optimizer=section.optimizer, num_updates=num_steps, policy_loss=None))
        take_spans = self.services.take_spans
        with Recorder(self.folder.path, key, num_steps=num_steps, first_step=first_step, take_spans=take_spans) as recorder:
            train_sft(
                section,
                samples,
                held_out,
                self.services.learner,
                recorder,
                checkpoints=self._checkpoints(key),
                checkpoint_every=self.config.learner.checkpoint_every,
                first_step=first_step,
                seed=seed,
            )
        return self._finish_training(iteration, stage, began, num_steps)

    def _begin_grpo(self, key: str, stage: GrpoStage, model: str) -> StreamState:
        """Load a stage's model, or its last checkpoint, into the learner and the rollout workers; return the state to go on from."""
        state = read_state(stage.checkpoints, newest(stage.checkpoints), stage.problems)
        self._begin(key, stage.for_learner(model))
        learner = self.services.learner
        self.services.rollout.load_weights(learner.publish(state.version if state.step else None))
        return state

    def _passes_gate(self, key: str, stage: GrpoStage) -> bool:
        """Return whether rollout and learner are alike to the rounding of float32; raises ParityError if they differ by too much."""
        draw = replace(stage.sampling(-1), top_p=1.0, top_k=0, bad_words=())  # the learner's distribution is not cut off
        problems = {problem.id: problem for problem in stage.problems.take(0, NUM_PARITY_PROBLEMS)}
        samples = parity_samples(self.services.rollout.generate(list(problems.values()), draw))
        gap = check_parity(samples, self.services.learner.logprobs(samples), stage.section.max_parity_gap)
        print(f"[{key}] rollout and learner log-probabilities agree within {gap.mean:.1e} a token, {gap.worst:.1e} at worst", flush=True)
        return gap.is_exact

    def _begin(self, key: str, stage: Stage) -> int:
        """Load a stage's model, or its last checkpoint, into the learner; return the step to go on from."""
        with phase(f"[{key}] loading {stage.model_path}"):
            self.services.learner.begin(stage)
            return self.services.learner.restore(self._checkpoints(key))

    def _finish_training(self, iteration: int, stage: str, began: float, num_steps: int) -> str:
        """Write the trained model, give it to the rollout workers, evaluate it, and note that the stage is finished."""
        model = self.folder.stage_folder(iteration, stage) / "model"
        self.services.learner.export(model)
        self.services.rollout.load_weights(self.services.learner.publish())
        self._newest_model = str(model)
        self._finish(iteration, stage, began, [model], num_steps)
        shutil.rmtree(self._checkpoints(stage_key(iteration, stage)), ignore_errors=True)
        return str(model)

    def _start(self, key: str, inputs: Sequence[Path]) -> float:
        if self._has_run:
            shutil.rmtree(self._checkpoints(key), ignore_errors=True)  # of a run whose earlier stages came out otherwise
        self._has_run = True
        self.folder.start(key, inputs)
        return time.monotonic()

    def _finish(self, iteration: int, stage: str, began: float, outputs: Sequence[Path], num_steps: int = 0) -> None:
        key = stage_key(iteration, stage)
        evaluation = evaluate(
            self.services, self._held_out, temperature=self.config.eval.temperature, max_tokens=self.config.max_completion_tokens, stage=key
        )
        result = measured(
            iteration,
            stage,
            num_correct=evaluation.num_correct,
            num_problems=len(self._held_out),
            response_tokens=evaluation.response_tokens,
            seconds=time.monotonic() - began,
        )
        print(f"[{key}] accuracy {result.accuracy:.1%} ({result.ci_low:.1%} - {result.ci_high:.1%})", flush=True)
        write_samples(self.folder.path, key, _records(evaluation, self.config.eval.num_samples_shown, num_steps))
        self.folder.finish(key, outputs, result)
        write_results(self.folder.path, self.folder.results())

    def _done(self, key: str) -> tuple[Path, ...] | None:
        """Return what a finished stage left, None for an unfinished one."""
        record = self.folder.finished(key)
        if record is None or self._has_run:  # what follows a stage that was done again is done again too
            return None
        shutil.rmtree(self._checkpoints(key), ignore_errors=True)
        if record.outputs and record.outputs[0].name == "model":
            self._newest_model = str(record.outputs[0])
        print(f"[{key}] finished before, kept", flush=True)
        return record.outputs

    def _checkpoints(self, key: str) -> Path:
        return self.folder.path / key / "checkpoints"


def _records(evaluation: Evaluation, num_shown: int, num_steps: int) -> list[SampleRecord]:
    """Return a few answers to show, the same problems for every stage."""
    return [
        SampleRecord(
            problem=scored.group.problem,
            response=scored.group.completions[0].text,
            outcome=scored.scores[0].outcome,
            extracted=scored.scores[0].extracted,
            reward=scored.scores[0].value,
            reason=scored.scores[0].reason,
            parts=scored.scores[0].parts,
            step=num_steps,
        )
        for scored in shuffled(evaluation.groups, seed=0)[:num_shown]
    ]
