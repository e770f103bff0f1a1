"""The configuration: frozen, typed, one section per component, each option with its docstring.

Nothing here imports torch, ray, vllm or transformers. `ovt_ray.config_file` reads it from YAML.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dtype = Literal["float32", "bfloat16"]
Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"]
Ratio = Literal["token", "sequence", "clipped_weight"]
Part = Literal["vision_tower", "projector", "language_model"]
KlEstimator = Literal["k1", "k2", "k3"]
RolloutCorrection = Literal["none", "token", "sequence", "geometric"]
Normalisation = Literal["token", "sequence", "group"]
Layout = Literal["shared_prompts", "packed", "padded"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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


class DataConfig(Section):
    """Where problems come from."""

    format: Literal["embedded", "jsonl", "tabmwp"]
    """`embedded` draws the procedural world; `jsonl` reads rows of `Problem`; `tabmwp` reads the data set's own folder."""
    path: Path | None = None
    """File (`jsonl`) or folder (`tabmwp`); none for `embedded`."""
    eval_path: Path | None = None
    """Held-out problems in a file of their own (`jsonl`); without it, `num_eval` problems are held out of `path`."""
    num_eval: int = Field(default=400, ge=1)
    """Held-out problems in each evaluation."""
    eval_split: Literal["validation", "test"] = "test"
    """Which held-out figures of the embedded world are asked about: settings are chosen on `validation`."""
    bad_rows: Literal["drop", "refuse"] = "refuse"
    """What to do with a row that has no answer, no readable image, ...: leave it out and say so, or stop."""

    @model_validator(mode="after")
    def _path_fits_format(self) -> "DataConfig":
        if (self.path is None) != (self.format == "embedded"):
            need = "takes no path" if self.format == "embedded" else "needs a path: add data.path=PATH"
            raise ValueError(f"format {self.format!r} {need}")
        for name, format in (("eval_path", "jsonl"), ("eval_split", "embedded")):
            if name in self.model_fields_set and self.format != format:
                raise ValueError(f"{name} says something about format {format!r} only, not {self.format!r}: leave it out")
        return self


class RolloutConfig(Section):
    """The rollout service: one vLLM engine per worker."""

    num_workers: int = Field(default=1, ge=1)
    """Engines, each in a Ray actor of its own."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """Logical CPUs asked of Ray, and threads of a CPU engine."""
    gpus_per_worker: int = Field(default=0, ge=0)
    """GPUs of one worker, used tensor parallel; 0 runs on CPU."""
    dtype: Dtype = "float32"
    """Of weights and activations."""
    max_model_len: int = Field(default=512, ge=16)
    """Longest prompt and completion together, in tokens."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that one engine decodes at the same time."""
    kv_cache_gib: float = Field(default=0.25, gt=0)
    """KV cache of a CPU engine."""
    gpu_memory_utilization: Fraction = 0.85
    """Share of a GPU's memory that its engine takes."""
    deadline_s: float = Field(default=600, gt=0)
    """Longest wait for an engine to start, for one problem's completions, and for a weight update."""


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685), trained instead of the weights."""

    rank: int = Field(ge=1)
    """Columns of B and rows of A in W + (alpha / rank) B A."""
    alpha: float = Field(gt=0)
    """Scale of the adapters; how much W moves at a learning rate depends on it over `rank`."""
    parts: tuple[Part, ...] = Field(default=("language_model",), min_length=1)
    """Parts whose linear layers get adapters; the output head and embeddings never do."""


class LearnerConfig(Section):
    """The learner service: one DeepSpeed rank per actor."""

    num_ranks: int = Field(default=1, ge=1)
    """DeepSpeed ranks, each in a Ray actor of its own."""
    cpus_per_rank: int = Field(default=1, ge=1)
    """Logical CPUs asked of Ray, and threads of a CPU rank."""
    gpus_per_rank: Literal[0, 1] = 0
    """GPUs of one rank; 0 trains on CPU."""
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
    """Completions submitted and not yet scored; the next one waits until one of them is."""

    @model_validator(mode="after")
    def _names_differ(self) -> "RewardConfig":
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"parts have the names {names}: each may stand there once, as figures are kept by name")
        return self


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(ge=0)
    """Its peak, after warm-up."""
    warmup: Fraction = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    final_lr: Fraction = 0.0
    """Learning rate of the last step, as a share of `learning_rate`."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled (AdamW)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The norm of the whole gradient is clipped to this."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of first and second moments."""
    freeze: tuple[Part, ...] = ()
    """Parts that are not trained; the output head belongs to the language model."""


class DistilConfig(Section):
    """One distillation stage: who writes traces, and which are kept."""

    source: Literal["caption", "dataset", "policy"]
    """`caption`: a captioner describes each image and a text-only reasoner answers; `dataset`: the worked solutions that came
    with the data; `policy`: the last RL model answers."""
    num_problems: int = Field(ge=1)
    """Problems that traces are asked for."""
    num_chains: int = Field(default=4, ge=1)
    """k, traces asked for per problem."""
    max_words: int = Field(default=500, ge=1)
    """Longer traces are dropped."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the policy's chains."""
    hard: bool = False
    """Draw the embedded world's harder mixture of questions."""

    @model_validator(mode="after")
    def _options_fit_source(self) -> "DistilConfig":
        unused = {"dataset": {"num_chains", "temperature"}, "caption": {"temperature"}, "policy": set()}[self.source]
        if given := sorted(unused & self.model_fields_set):
            raise ValueError(f"source {self.source!r} takes no {given[0]}: leave it out")
        return self


class SftConfig(Section):
    """One supervised fine-tuning stage, from the base model: cross entropy on the response's tokens, none on the prompt's."""

    num_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, each on a full batch; the traces are gone through as often as that takes. Either this or `num_epochs` is given."""
    num_epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How often each trace is seen, instead of `num_steps`; the last batch of an epoch may be smaller."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences of one optimizer step, over all ranks."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the problems whose traces are not trained on: their cross entropy is measured every `learner.checkpoint_every` steps and at
    the end. 0 measures none."""
    optimizer: Optimizer
    """Its learning rate schedule spans the stage."""

    @model_validator(mode="after")
    def _length_is_given_once(self) -> "SftConfig":
        if (self.num_steps is None) == (self.num_epochs is None):
            seen = "neither" if self.num_steps is None else f"num_steps {self.num_steps} and num_epochs {self.num_epochs:g}"
            raise ValueError(
                f"num_steps and num_epochs both say how long the stage is, so give one of them (null for the other), not {seen}"
            )
        return self


class GrpoConfig(Section):
    """One reinforcement learning stage, from the iteration's SFT model."""

    num_steps: int = Field(ge=1)
    """Rounds of generating, verifying and learning."""
    problems_per_step: int = Field(default=32, ge=1)
    """P, fresh problems of one step."""
    num_completions: int = Field(default=8, ge=2)
    """G, completions per problem."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer steps taken on one step's completions."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the rollouts; the learner's log-probabilities are taken at it too."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Rollouts are drawn from the most probable tokens that together have this probability (nucleus sampling, arXiv 1904.09751). The
    learner's distribution is not cut off, so below 1 its ratio to the rollouts is too small by up to this factor."""
    advantage: Advantage = "grpo"
    """A reward less its group's mean: over the group's standard deviation (`grpo`, arXiv 2402.03300, section 4.1.2), as it is (`dr_grpo`,
    arXiv 2503.20783, section 3.2), or over that of the step (`reinforce_pp`, arXiv 2501.03262, section 3); less the mean of the group's
    others (`rloo`, arXiv 2402.14740)."""
    ratio: Ratio = "token"
    """What is clipped where a step has several updates, policy over the policy at the start of the step: of each token (PPO, arXiv
    1707.06347, eq. 7), the geometric mean of its sequence (GSPO, arXiv 2507.18071, eq. 7), or as a weight without a gradient (CISPO, arXiv
    2506.13585, eq. 4)."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio is clipped below at 1 less this, from the second update of a step on; in the first it is 1. 1 is no lower bound."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio is clipped above at 1 plus this (DAPO, arXiv 2503.14476, eq. 10, lets it differ from `clip_low`)."""
    clip_dual: float | None = Field(default=None, gt=1)
    """Largest ratio that counts for a negative advantage (dual clip, arXiv 1912.09729, eq. 5); None is without bound."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL to the stage's first model; 0 keeps no reference model."""
    kl_estimator: KlEstimator = "k3"
    """How it is estimated (Schulman, "Approximating KL divergence", 2020): log ratio, half its square, or the non-negative one of GRPO."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it goes: a term of the loss (arXiv 2402.03300, eq. 3), or taken from the advantage of the token and those before it (arXiv
    2501.03262, section 3); which groups are flat is the verifier's word alone."""
    rollout_correction: RolloutCorrection = "token"
    """Importance weights for what rollout and learner differ by: of each token, at most `rollout_cap` (truncated importance sampling,
    Ionides, JCGS 17(2), 2008); of the sequence, 0 above the cap; or 0 where its geometric mean is off by more than the cap, else 1."""
    rollout_cap: float = Field(default=2.0, gt=1)
    """Cap of `rollout_correction`; `geometric` wants one close to 1, such as 1.01."""
    normalisation: Normalisation = "token"
    """What counts alike in the loss of an update: every token, every sequence (arXiv 2402.03300, eq. 3) or every group (arXiv 2503.14476,
    eq. 8)."""
    mask_truncated: bool = False
    """Leave answers that ran into `max_completion_tokens` out of the loss, though not out of their group's mean (overlong filtering, DAPO,
    arXiv 2503.14476, section 3.4)."""
    sft_coef: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the cross entropy of the iteration's traces in the loss (mean over their response tokens), as InstructGPT mixes its
    pretraining loss in (arXiv 2203.02155, eq. 2); 0 mixes none in."""
    sft_batch_size: int = Field(default=32, ge=1)
    """Traces of one update where `sft_coef` is above 0."""
    max_parity_gap: float = Field(default=1e-5, gt=0)
    """Largest mean difference of rollout and learner log-probabilities over an answer at the start of the stage, else the run stops."""
    max_flat_steps: int = Field(default=5, ge=1)
    """Stop after this many steps in a row in which every group's scores are equal."""
    optimizer: Optimizer
    """Its learning rate schedule spans the stage."""

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> "GrpoConfig":
        given = self.model_fields_set
        if self.kl_coef == 0 and (unused := sorted({"kl_estimator", "kl_in"} & given)):
            raise ValueError(f"kl_coef 0 keeps no reference model, so {unused[0]} has no effect: raise kl_coef, or leave {unused[0]} out")
        if self.kl_coef > 0 and (self.kl_estimator, self.kl_in) == ("k1", "loss"):
            raise ValueError("kl_estimator 'k1' has an expected gradient of 0 in the loss: use 'k2' or 'k3', or kl_in 'reward'")
        if self.ratio == "clipped_weight" and self.clip_dual is not None:
            raise ValueError("ratio 'clipped_weight' bounds every weight already, so clip_dual has no effect: leave it out")
        if self.rollout_correction == "none" and "rollout_cap" in given:
            raise ValueError("rollout_correction 'none' has no cap: leave rollout_cap out, or choose 'token', 'sequence' or 'geometric'")
        if self.sft_coef == 0 and "sft_batch_size" in given:
            raise ValueError("sft_coef 0 mixes no traces in, so sft_batch_size has no effect: raise sft_coef, or leave sft_batch_size out")
        if self.sft_coef > 0 and self.temperature != 1:
            raise ValueError(
                f"sft_coef {self.sft_coef:g} is for a cross entropy at temperature 1, but the stage's log-probabilities are taken at "
                f"temperature {self.temperature:g}: set temperature to 1, or sft_coef to 0"
            )
        return self


class IterationConfig(Section):
    """One turn of the recipe: traces, SFT from base, GRPO."""

    distil: DistilConfig
    """Who writes the traces."""
    sft: SftConfig
    """Fine-tuning on them, from the base model."""
    grpo: GrpoConfig
    """Reinforcement learning, from the SFT model."""


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
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer of each training stage by the dotted name of the stage's section."""
        sections: dict[str, SftConfig | GrpoConfig] = {"base": self.base} if self.base else {}
        for number, turn in enumerate(self.iterations):
            sections |= {f"iterations.{number}.sft": turn.sft, f"iterations.{number}.grpo": turn.grpo}
        return {name: section.optimizer for name, section in sections.items()}

    @property
    def warnings(self) -> list[str]:
        """What is allowed and yet gives something up, to be said at the start."""
        return [
            f"iterations.{number}.grpo.top_p: {turn.grpo.top_p:g} cuts off what rollouts are drawn from, but not the learner's "
            "distribution: importance ratios are inexact; set it to 1 for exact ones"
            for number, turn in enumerate(self.iterations)
            if turn.grpo.top_p < 1
        ]

    @model_validator(mode="after")
    def _learner_fits_stages(self) -> "RunConfig":
        if self.learner.reference_on_cpu and not any(turn.grpo.kl_coef for turn in self.iterations):
            raise ValueError("learner.reference_on_cpu has no effect where no grpo.kl_coef is above 0: leave it out")
        if self.learner.lora is None:
            return self
        if self.base is not None:
            raise ValueError("base: random weights are not trained by adapters: leave learner.lora out, or base")
        for name, optimizer in self.optimizers.items():
            if both := sorted(set(optimizer.freeze) & set(self.learner.lora.parts)):
                raise ValueError(f"{name}.optimizer.freeze: learner.lora.parts trains adapters in {both[0]!r}: leave it out of one of them")
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
        if self.iterations and self.iterations[0].distil.source == "policy":
            raise ValueError("iterations.0.distil.source: 'policy' needs an RL model, and none exists yet: use 'caption' or 'dataset'")
        if self.data.format != "embedded" and any(turn.distil.source == "caption" for turn in self.iterations):
            raise ValueError("distil.source: 'caption' works on data.format=embedded only, whose captioner is procedural: use 'dataset'")
        if self.data.format != "embedded" and any(turn.distil.hard for turn in self.iterations):
            raise ValueError(f"distil.hard: only data.format=embedded has a harder mixture, not {self.data.format!r}: leave it out")
        return self
