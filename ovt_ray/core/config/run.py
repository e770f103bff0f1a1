"""The configuration: frozen, typed, one section per component, each option with its docstring.

Nothing here imports torch, ray, vllm or transformers. The files beside this one hold the sections of the data, the stages, the traces and
the teachers. `ovt_ray.core.config.file` reads a whole configuration from YAML.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.section import Dtype, Fraction, ModelPart, Section
from ovt_ray.core.config.stages import GrpoConfig, IterationConfig, Optimizer, SftConfig
from ovt_ray.core.config.teachers import CaptionerConfig, ReasonerConfig

Layout = Literal["shared_prompts", "packed", "padded"]


class ModelConfig(Section):
    """The base model and how it is shown a problem."""

    path: str
    """A Hugging Face folder or hub name, or `embedded` for the tiny model that comes with the project."""
    max_pixels: int = Field(default=262_144, ge=28 * 28)
    """Larger images are scaled down to this many pixels, on the rollout and the learner side alike."""
    system_prompt: str = ""
    """First turn of every prompt; empty for none."""
    instruction: str = ""
    """Added after the question and its choices, for example to ask for the answer format."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer, such as `</answer>`, as the end of the turn does; they are part of it."""


class RolloutConfig(Section):
    """The rollout service: one vLLM engine per worker."""

    num_workers: int = Field(default=1, ge=1)
    """Engines, each in a Ray actor of its own."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """Logical CPUs asked of Ray, and threads of a CPU engine."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs of one worker, used tensor parallel, or the share that it has of one (0.4); 0 runs on CPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes that share the matrices, and the threads, of an engine on CPU; with GPUs there is one for each."""
    dtype: Dtype = "float32"
    """Of weights and activations."""
    max_model_len: int = Field(default=512, ge=16)
    """Longest prompt and completion together, in tokens."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that one engine decodes at the same time."""
    kv_cache_gib: float = Field(default=0.25, gt=0)
    """KV cache of an engine on a CPU or with a share of a GPU; one with whole GPUs takes what `gpu_memory_utilization` leaves."""
    gpu_memory_utilization: Fraction = 0.85
    """Share of a GPU's memory that its engine takes, and that has to be free when it starts."""
    deadline_s: float = Field(default=600, gt=0)
    """Longest wait for an engine to start, for one problem's completions, and for a weight update."""

    @property
    def num_shards(self) -> int:
        """Parts that an engine's matrices are split into, each in a process of its own."""
        return math.ceil(self.gpus_per_worker) or self.tensor_parallel

    @model_validator(mode="after")
    def _shards_fit_devices(self) -> "RolloutConfig":
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(f"gpus_per_worker {self.gpus_per_worker:g} is neither a share of one GPU nor whole GPUs: round it")
        if 0 < self.gpus_per_worker < 1 and self.gpu_memory_utilization >= self.gpus_per_worker:
            raise ValueError(
                f"gpu_memory_utilization {self.gpu_memory_utilization:g} is not less than gpus_per_worker {self.gpus_per_worker:g}, "
                "the engine's share of its GPU, in which its process needs some memory beside: lower it"
            )
        if self.gpus_per_worker and self.tensor_parallel > 1:
            raise ValueError(f"tensor_parallel {self.tensor_parallel} is for engines on CPU: gpus_per_worker splits others; leave it out")
        if self.cpus_per_worker % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel {self.tensor_parallel} does not divide the threads of cpus_per_worker {self.cpus_per_worker}: "
                "raise cpus_per_worker to a multiple"
            )
        return self


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685), trained instead of the weights."""

    rank: int = Field(ge=1)
    """Columns of B and rows of A in W + (alpha / rank) B A."""
    alpha: float = Field(gt=0)
    """Scale of the adapters; how much W moves at a learning rate depends on it over `rank`."""
    parts: tuple[ModelPart, ...] = Field(default=("language_model",), min_length=1)
    """Parts whose linear layers get adapters; the output head and embeddings never do."""


class LearnerConfig(Section):
    """The learner service: one DeepSpeed rank per actor."""

    num_ranks: int = Field(default=1, ge=1)
    """DeepSpeed ranks, each in a Ray actor of its own."""
    cpus_per_rank: int = Field(default=1, ge=1)
    """Logical CPUs asked of Ray, and threads of a CPU rank."""
    gpus_per_rank: Fraction = 0
    """1 for a GPU of its own, or the share that a rank has of one beside an engine (0.6); 0 trains on CPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed shards over the ranks: nothing, optimizer state, gradients too, weights too."""
    dtype: Dtype = "float32"
    """Of weights and activations; `bfloat16` keeps float32 master weights in the optimizer."""
    layout: Layout = "shared_prompts"
    """How samples share a forward pass: packed into one row, those of one problem behind a single copy of its prompt and images; `packed`,
    each with a prompt of its own; or `padded` to rows of one length, for models whose attention is not plainly causal."""
    micro_batch_tokens: int = Field(default=8192, ge=16)
    """Tokens of one forward and backward pass, with padding if there is any; a longer sample goes alone."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory (ZeRO 2 and 3)."""
    offload_parameters: bool = False
    """Keep the weights in host memory, brought in layer by layer (ZeRO 3)."""
    reference_on_cpu: bool = False
    """Keep the KL's reference model in host memory, sharded over the ranks and brought in layer by layer, at any `zero_stage`."""
    weight_transport: Literal["object_store", "broadcast"] = "object_store"
    """How weights reach the rollout workers: pulled from Ray's object store, or sent to all of them at once through a group of processes,
    NCCL between GPUs, CUDA IPC on one that all share, gloo between CPUs; a worker that was not there pulls in either case."""
    lora: LoraConfig | None = None
    """Train adapters instead of the weights, in every stage; without it, all weights that no stage freezes."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Optimizer steps between two checkpoints."""
    deadline_s: float = Field(default=1800, gt=0)
    """Longest wait for one call to the learner."""

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> "LearnerConfig":
        if self.offload_optimizer and self.zero_stage < 2:
            raise ValueError(f"offload_optimizer needs zero_stage 2 or 3, got {self.zero_stage}: raise the stage, or set it to false")
        if self.offload_parameters and self.zero_stage < 3:
            raise ValueError(f"offload_parameters needs zero_stage 3, got {self.zero_stage}: raise the stage, or set it to false")
        if self.reference_on_cpu and self.lora:
            raise ValueError("reference_on_cpu has no effect: with lora the reference is the policy without adapters; set it to false")
        if self.num_ranks > 1 and 0 < self.gpus_per_rank <= 0.5:
            raise ValueError(
                f"gpus_per_rank {self.gpus_per_rank:g} lets two of num_ranks {self.num_ranks} meet on one GPU, which NCCL refuses: "
                "ask for more than 0.5"
            )
        if self.weight_transport == "broadcast" and self.lora:
            raise ValueError("weight_transport 'broadcast' sends whole weights, lora adapters alone: set object_store, or leave lora out")
        return self


class RewardPart(Section):
    """One reward; docs/rewards.md says what it can be."""

    name: str
    """`package.module:Name`, `path/file.py:Name`, `actor:NAME`, `actor:NAMESPACE/NAME`, or the `http(s)://` address of an endpoint."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """What its value counts in the sum of all parts; negative for a penalty that is given as a positive number."""
    options: dict[str, Any] = {}
    """Arguments of the constructor of a class, checked against its signature before anything starts."""
    replicas: int = Field(default=1, ge=1)
    """Of a Ray actor class: how many actors."""
    concurrency: int | None = Field(default=None, ge=1)
    """Of a Ray actor: calls in flight at each replica; None is 64 for a class with async methods, such as a judge model, else 1."""
    num_cpus: float | None = Field(default=None, ge=0)
    """Of a Ray actor class: CPUs of each replica; None leaves it to the class's own decorator."""
    num_gpus: float | None = Field(default=None, ge=0)
    """Of a Ray actor class: GPUs of each replica; None leaves it to the class's own decorator."""


class RewardConfig(Section):
    """The reward service."""

    parts: tuple[RewardPart, ...] = Field(default=(RewardPart(name="reward.accuracy:score_accuracy"),), min_length=1)
    """Rewards that are added by weight. The first decides the outcome."""
    num_actors: int = Field(default=1, ge=1)
    """Reward actors, each with scoring processes of its own."""
    num_processes: int = Field(default=1, ge=1)
    """Scoring processes of each actor, which work side by side."""
    deadline_s: float = Field(default=5, gt=0)
    """Longest time of one part on one completion; past it the process is killed and the completion is unscorable."""
    memory_gb: float = Field(default=4, gt=0)
    """Writable private memory of one scoring process, GiB; one that needs more ends, and the completion is unscorable."""
    max_error_share: Fraction = 0.1
    """The run stops when more than this share of the last completions could not be scored because a reward failed."""
    queue: int = Field(default=256, ge=1)
    """Submissions that are not scored yet, each of the completions of a problem that ended together; the next waits until one is."""

    @model_validator(mode="after")
    def _names_differ(self) -> "RewardConfig":
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"parts have the names {names}: each may stand there once, as figures are kept by name")
        return self


class EvalConfig(Section):
    """Greedy evaluation on the held-out problems, after each training stage."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    num_samples_shown: int = Field(default=12, ge=0)
    """Answers written to the report with their images."""


class RunConfig(Section):
    """Everything a run depends on."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Folder below `runs_dir`."""
    runs_dir: Path = Path("runs")
    """Where run folders lie."""
    seed: int = 0
    """Data order, sampling and the embedded model follow from it."""
    max_completion_tokens: int = Field(ge=1)
    """Longest answer in every stage."""
    model: ModelConfig
    """The base model."""
    data: DataConfig
    """Problems to learn from and to measure on."""
    rollout: RolloutConfig
    """The rollout service."""
    learner: LearnerConfig
    """The learner service."""
    captioner: CaptionerConfig = CaptionerConfig()
    """First teacher of `distil.source: caption`."""
    reasoner: ReasonerConfig = ReasonerConfig()
    """Second teacher of `distil.source: caption`."""
    reward: RewardConfig = RewardConfig()
    """The reward service."""
    base: SftConfig | None = None
    """Build the embedded model anew from random weights and train it so; without it, it is taken as it comes."""
    iterations: list[IterationConfig]
    """One entry per turn of the recipe; none to evaluate, or build, the base model alone."""
    eval: EvalConfig = EvalConfig()
    """How each model is measured."""

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name

    @property
    def problem_folder(self) -> Path:
        """Where the problems of data sets are kept once they are checked; runs share it."""
        return self.runs_dir / ".problems"

    @property
    def has_teachers(self) -> bool:
        """Whether any iteration's traces come from captioner and reasoner."""
        return any(turn.distil is not None and turn.distil.source == "caption" for turn in self.iterations)

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer of each training stage by the dotted name of the stage's section."""
        sections: dict[str, SftConfig | GrpoConfig] = {"base": self.base} if self.base else {}
        for number, turn in enumerate(self.iterations):
            sections |= {f"iterations.{number}.sft": turn.sft} if turn.sft else {}
            sections |= {f"iterations.{number}.grpo": turn.grpo}
        return {name: section.optimizer for name, section in sections.items()}

    @property
    def warnings(self) -> list[str]:
        """What is allowed and yet gives something up, to be said at the start."""
        return [
            f"iterations.{number}.grpo.{key}: {value} cuts off what rollouts are drawn from, but not the learner's "
            "distribution: importance ratios are inexact; leave it out for exact ones"
            for number, turn in enumerate(self.iterations)
            for key, value in turn.grpo.cuts.items()
        ]

    @model_validator(mode="after")
    def _learner_fits_stages(self) -> "RunConfig":
        if self.learner.reference_on_cpu and not any(turn.grpo.kl_coef for turn in self.iterations):
            raise ValueError("learner.reference_on_cpu has no effect where no grpo.kl_coef is above 0: leave it out")
        if self.learner.weight_transport == "broadcast":
            self._check_broadcast(self.learner.gpus_per_rank, self.rollout.gpus_per_worker)
        if self.learner.lora is None:
            return self
        if self.base is not None:
            raise ValueError("base: random weights are not trained by adapters: leave learner.lora out, or base")
        for name, optimizer in self.optimizers.items():
            if both := sorted(set(optimizer.freeze) & set(self.learner.lora.parts)):
                raise ValueError(f"{name}.optimizer.freeze: learner.lora.parts trains adapters in {both[0]!r}: leave it out of one of them")
        return self

    def _check_broadcast(self, of_rank: float, of_worker: float) -> None:
        """`of_rank` and `of_worker` are GPUs."""
        is_shared = 0 < of_rank < 1 and 0 < of_worker < 1
        if bool(of_rank) != bool(of_worker) or (not is_shared and 0 < min(of_rank, of_worker) < 1):
            raise ValueError(
                "learner.weight_transport: 'broadcast' goes between whole GPUs, on one GPU that all share, or between CPUs, not with "
                f"learner.gpus_per_rank {of_rank:g} and rollout.gpus_per_worker {of_worker:g}: set object_store"
            )
        shares = self.learner.num_ranks * of_rank + self.rollout.num_workers * of_worker
        if is_shared and shares > 1 + 1e-6:
            raise ValueError(
                "learner.weight_transport: 'broadcast' needs whole GPUs or one that all share, and "
                f"learner.num_ranks {self.learner.num_ranks} and rollout.num_workers {self.rollout.num_workers} "
                f"ask for {shares:g} in shares: set object_store"
            )

    @model_validator(mode="after")
    def _captions_fit_the_reasoner(self) -> "RunConfig":
        caption, chain = self.captioner.max_completion_tokens, self.reasoner.max_completion_tokens
        if caption + chain >= self.reasoner.max_model_len:
            raise ValueError(
                f"reasoner.max_model_len ({self.reasoner.max_model_len}) leaves no room for a question beside a caption of "
                f"captioner.max_completion_tokens ({caption}) and a chain of reasoner.max_completion_tokens ({chain}): raise it"
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        if self.base is not None and self.model.path != "embedded":
            raise ValueError(f"base: only model.path=embedded is trained from random weights, not {self.model.path!r}: leave base out")
        if self.base is not None and self.base.num_steps is None:
            raise ValueError("base: its corpus is drawn to fill num_steps batches, so num_epochs has no meaning: give num_steps instead")
        if self.max_completion_tokens >= self.rollout.max_model_len:
            raise ValueError(
                f"max_completion_tokens ({self.max_completion_tokens}) leaves no room for a prompt in "
                f"rollout.max_model_len ({self.rollout.max_model_len}): raise the latter"
            )
        distils = [turn.distil for turn in self.iterations if turn.distil]
        first = self.iterations[0].distil if self.iterations else None
        if first and first.source == "policy":
            raise ValueError("iterations.0.distil.source: 'policy' needs an RL model, and none exists yet: use another source")
        for number, turn in enumerate(self.iterations):
            if turn.grpo.sft_coef and not any(earlier.distil for earlier in self.iterations[: number + 1]):
                raise ValueError(
                    f"iterations.{number}.grpo.sft_coef mixes traces in, and none are written before: set it to 0, or add distil"
                )
        if self.data.format != "embedded" and any(distil.hard for distil in distils):
            raise ValueError(f"distil.hard: only data.format=embedded has a harder mixture, not {self.data.format!r}: leave it out")
        return self

    @model_validator(mode="after")
    def _tiers_are_known(self) -> "RunConfig":
        is_measured = False
        for number, turn in enumerate(self.iterations):
            distils = turn.distil is not None and turn.distil.source != "dataset"
            stages = [("distil", turn.distil.problems, distils)] if turn.distil else []
            for name, choice, measures in (*stages, ("grpo", turn.grpo.problems, True)):
                if choice and choice.tiers and not is_measured:
                    raise ValueError(
                        f"iterations.{number}.{name}.problems.tiers: no stage before it measures pass rates, as grpo and a "
                        "distillation do, unless its source is 'dataset': leave tiers out here"
                    )
                is_measured |= measures
        return self
