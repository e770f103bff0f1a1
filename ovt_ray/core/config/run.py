"""The configuration of a run: frozen and typed, with a section per component and a docstring per option.

Nothing here imports torch, ray, vllm or transformers. Other files of this folder hold the sections of the data, the stages, the traces
and the teachers. `ovt_ray.core.config.file` reads a whole configuration from YAML.
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
    """The base model, and the form of its prompts."""

    path: str
    """Hugging Face folder or hub name of the model, or `embedded` for the tiny model of this project."""
    max_pixels: int = Field(default=262_144, ge=28 * 28)
    """Upper bound on the pixels of an image. Rollout workers and learner both scale a larger image down to it."""
    system_prompt: str = ""
    """First turn of every prompt; empty for none."""
    instruction: str = ""
    """Text after the question and its choices, for example a request for the answer format."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts, such as `</answer>`, that end an answer as the end of the turn does. They are part of the answer."""


class RolloutConfig(Section):
    """The rollout service: one vLLM engine per worker."""

    num_workers: int = Field(default=1, ge=1)
    """Number of rollout workers, each an engine in a Ray actor of its own."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """Logical CPUs that a worker requests of Ray, and threads of an engine on CPU."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs of a worker, used tensor parallel, or its share of a single GPU, such as 0.4; 0 runs on CPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Number of processes that share the matrices and the threads of an engine on CPU. An engine on GPUs has a process per GPU."""
    dtype: Dtype = "float32"
    """Data type of weights and activations."""
    max_model_len: int = Field(default=512, ge=16)
    """Upper bound on the tokens of a prompt and its completion together."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Upper bound on the sequences that an engine decodes at the same time."""
    kv_cache_gib: float = Field(default=0.25, gt=0)
    """KV cache of an engine on CPU or with a share of a GPU, in GiB. An engine with whole GPUs takes the rest of its
    `gpu_memory_utilization` instead."""
    gpu_memory_utilization: Fraction = 0.85
    """Share of a GPU's memory that its engine takes. That memory must be free when the engine starts."""
    deadline_s: float = Field(default=600, gt=0)
    """Upper bound on the seconds of an engine's start, of one problem's completions, and of a weight update."""

    @property
    def num_shards(self) -> int:
        """Number of shards that an engine's matrices are split into, each in a process of its own."""
        return math.ceil(self.gpus_per_worker) or self.tensor_parallel

    @model_validator(mode="after")
    def _shards_fit_devices(self) -> "RolloutConfig":
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(f"gpus_per_worker {self.gpus_per_worker:g} is neither a share of one GPU nor whole GPUs: round it")
        if 0 < self.gpus_per_worker < 1 and self.gpu_memory_utilization >= self.gpus_per_worker:
            raise ValueError(
                f"gpu_memory_utilization {self.gpu_memory_utilization:g} is not less than gpus_per_worker {self.gpus_per_worker:g}, "
                "the engine's share of its GPU, in which its process needs some more memory: lower it"
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
    """Number of columns of B and of rows of A in W + (alpha / rank) B A."""
    alpha: float = Field(gt=0)
    """Scale of the adapters. At a given learning rate the change of W depends on alpha / rank."""
    parts: tuple[ModelPart, ...] = Field(default=("language_model",), min_length=1)
    """Parts of the model whose linear layers get adapters. The output head and the embeddings never get them."""


class LearnerConfig(Section):
    """The learner service: one DeepSpeed rank per Ray actor."""

    num_ranks: int = Field(default=1, ge=1)
    """Number of DeepSpeed ranks, each in a Ray actor of its own."""
    cpus_per_rank: int = Field(default=1, ge=1)
    """Logical CPUs that a rank requests of Ray, and threads of a rank on CPU."""
    gpus_per_rank: Fraction = 0
    """Share of a GPU per rank: 1 for a whole GPU, less to share it with an engine, such as 0.6; 0 trains on CPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: DeepSpeed shards nothing (0), the optimizer state (1), also the gradients (2), or also the weights (3) over the
    ranks."""
    dtype: Dtype = "float32"
    """Data type of weights and activations. `bfloat16` keeps float32 master weights in the optimizer."""
    layout: Layout = "shared_prompts"
    """Arrangement of samples in a forward pass. `shared_prompts` packs samples into one row, where the samples of a problem share one
    copy of its prompt and images. `packed` gives each sample its own prompt. `padded` makes rows of one length, for models whose attention
    is not plainly causal."""
    micro_batch_tokens: int = Field(default=8192, ge=16)
    """Upper bound on the tokens of a forward and backward pass, padding included. A longer sample has a pass of its own."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory (ZeRO 2 and 3)."""
    offload_parameters: bool = False
    """Keep the weights in host memory and load them layer by layer (ZeRO 3)."""
    reference_on_cpu: bool = False
    """Keep the KL's reference model in host memory, sharded over the ranks, and load it layer by layer. Works at any `zero_stage`."""
    weight_transport: Literal["object_store", "broadcast"] = "object_store"
    """Transport of the weights to the rollout workers. With `object_store` each worker pulls them from Ray's object store. `broadcast`
    sends them to all workers at once, by NCCL between GPUs, CUDA IPC on a single shared GPU, or gloo between CPUs. A worker that joins
    later always pulls."""
    lora: LoraConfig | None = None
    """Adapters to train instead of the weights, in every stage. None trains all weights that the stage does not freeze."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Number of optimizer steps between two checkpoints."""
    deadline_s: float = Field(default=1800, gt=0)
    """Upper bound on the seconds of one call to the learner."""

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
            raise ValueError(
                "weight_transport 'broadcast' sends whole weights, but lora trains adapters alone: set object_store, or leave lora out"
            )
        return self


class RewardPart(Section):
    """A reward of the weighted sum. docs/rewards.md describes the kinds of rewards."""

    name: str
    """`package.module:Name`, `path/file.py:Name`, `actor:NAME`, `actor:NAMESPACE/NAME`, or the `http(s)://` address of an endpoint."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Weight of the reward's value in the sum of all parts. It is negative for a penalty that is a positive number."""
    options: dict[str, Any] = {}
    """Arguments of the constructor of a class, checked against its signature before anything starts."""
    replicas: int = Field(default=1, ge=1)
    """Number of actors of a Ray actor class."""
    concurrency: int | None = Field(default=None, ge=1)
    """Calls in flight at each replica of a Ray actor. None is 64 for a class with async methods, such as a judge model, else 1."""
    num_cpus: float | None = Field(default=None, ge=0)
    """CPUs of each replica of a Ray actor class; None keeps the value of the class's own decorator."""
    num_gpus: float | None = Field(default=None, ge=0)
    """GPUs of each replica of a Ray actor class; None keeps the value of the class's own decorator."""


class RewardConfig(Section):
    """The reward service."""

    parts: tuple[RewardPart, ...] = Field(default=(RewardPart(name="reward.accuracy:score_accuracy"),), min_length=1)
    """Rewards of the weighted sum. The first reward decides the outcome."""
    num_actors: int = Field(default=1, ge=1)
    """Number of reward actors, each with scoring processes of its own."""
    num_processes: int = Field(default=1, ge=1)
    """Number of parallel scoring processes of each actor."""
    deadline_s: float = Field(default=5, gt=0)
    """Upper bound on the seconds of one part on one completion. Past it the process is killed and the completion is unscorable."""
    memory_gb: float = Field(default=4, gt=0)
    """Upper bound on the writable private memory of a scoring process, in GiB. A process that needs more ends, and its completion is
    unscorable."""
    max_error_share: Fraction = 0.1
    """Upper bound on the share of recent completions without a score because a reward failed. The run stops above it."""
    queue: int = Field(default=256, ge=1)
    """Upper bound on the submissions that await their scores. A submission holds the completions of a problem that ended together. When
    the queue is full, the next submission waits."""

    @model_validator(mode="after")
    def _names_differ(self) -> "RewardConfig":
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"parts have the names {names}: each name may occur once, as figures are kept by name")
        return self


class EvalConfig(Section):
    """Greedy evaluation on the held-out problems, after each training stage."""

    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the answers; 0 is greedy."""
    num_samples_shown: int = Field(default=12, ge=0)
    """Number of answers that the report shows with their images."""


class RunConfig(Section):
    """Everything that a run depends on."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run, and of its folder below `runs_dir`."""
    runs_dir: Path = Path("runs")
    """Folder of all run folders."""
    seed: int = 0
    """Seed of the data order, of sampling and of the embedded model."""
    max_completion_tokens: int = Field(ge=1)
    """Upper bound on the tokens of an answer, in every stage."""
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
    """Training of the embedded model from random weights. None takes the embedded model as shipped."""
    iterations: list[IterationConfig]
    """Iterations of the recipe. An empty list only evaluates, or builds, the base model."""
    eval: EvalConfig = EvalConfig()
    """Evaluation of each model."""

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name

    @property
    def problem_folder(self) -> Path:
        """The folder of checked problems of data sets, which runs share."""
        return self.runs_dir / ".problems"

    @property
    def has_teachers(self) -> bool:
        """Whether captioner and reasoner write the traces of any iteration."""
        return any(turn.distil is not None and turn.distil.source == "caption" for turn in self.iterations)

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer of each training stage, by the dotted name of the stage's section."""
        sections: dict[str, SftConfig | GrpoConfig] = {"base": self.base} if self.base else {}
        for number, turn in enumerate(self.iterations):
            sections |= {f"iterations.{number}.sft": turn.sft} if turn.sft else {}
            sections |= {f"iterations.{number}.grpo": turn.grpo}
        return {name: section.optimizer for name, section in sections.items()}

    @property
    def warnings(self) -> list[str]:
        """Warnings about options that are allowed and give up some exactness, printed at the start."""
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
            self._check_broadcast(gpus_per_rank=self.learner.gpus_per_rank, gpus_per_worker=self.rollout.gpus_per_worker)
        if self.learner.lora is None:
            return self
        if self.base is not None:
            raise ValueError("base: random weights are not trained by adapters: leave learner.lora out, or base")
        for name, optimizer in self.optimizers.items():
            if both := sorted(set(optimizer.freeze) & set(self.learner.lora.parts)):
                raise ValueError(f"{name}.optimizer.freeze: learner.lora.parts trains adapters in {both[0]!r}: leave it out of one of them")
        return self

    def _check_broadcast(self, *, gpus_per_rank: float, gpus_per_worker: float) -> None:
        is_shared = 0 < gpus_per_rank < 1 and 0 < gpus_per_worker < 1
        if bool(gpus_per_rank) != bool(gpus_per_worker) or (not is_shared and 0 < min(gpus_per_rank, gpus_per_worker) < 1):
            raise ValueError(
                "learner.weight_transport: 'broadcast' goes between whole GPUs, on one GPU that all share, or between CPUs, not with "
                f"learner.gpus_per_rank {gpus_per_rank:g} and rollout.gpus_per_worker {gpus_per_worker:g}: set object_store"
            )
        shares = self.learner.num_ranks * gpus_per_rank + self.rollout.num_workers * gpus_per_worker
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
                f"reasoner.max_model_len ({self.reasoner.max_model_len}) leaves no room for a question next to a caption of "
                f"captioner.max_completion_tokens ({caption}) and a chain of reasoner.max_completion_tokens ({chain}): raise it"
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        if self.base is not None and self.model.path != "embedded":
            raise ValueError(f"base: only model.path=embedded is trained from random weights, not {self.model.path!r}: leave base out")
        if self.base is not None and self.base.num_steps is None:
            raise ValueError("base: its corpus is drawn to fill num_steps batches, so num_epochs has no effect: give num_steps instead")
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
                    f"iterations.{number}.grpo.sft_coef mixes traces in, but no stage before it writes any: set it to 0, or add distil"
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
