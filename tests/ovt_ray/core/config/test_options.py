"""Every option of the configuration, by name: each says what it is for, and each is there on purpose."""

from typing import get_args

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.section import Section


def test_every_option_says_what_it_is_for() -> None:
    assert [name for name, description in options(RunConfig) if not description] == []


def test_a_new_option_is_a_decision() -> None:
    """Whoever adds an option adds it here: each needs a user."""
    assert [name for name, _ in options(RunConfig)] == OPTIONS.split()


def options(section: type[Section], prefix: str = "") -> list[tuple[str, str | None]]:
    """Return every option's dotted name and docstring, in order of declaration."""
    found: list[tuple[str, str | None]] = []
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type) and issubclass(kind, Section)]
        found.append((prefix + name, field.description))
        found += options(inner[0], f"{prefix}{name}.") if inner else []
    return found


OPTIONS = """
name
runs_dir
seed
max_completion_tokens
model
model.path
model.max_pixels
model.system_prompt
model.instruction
model.stop
data
data.format
data.path
data.also
data.also.format
data.also.path
data.eval_path
data.eval_format
data.num_eval
data.eval_split
data.bad_rows
data.image_hosts
rollout
rollout.num_workers
rollout.cpus_per_worker
rollout.gpus_per_worker
rollout.tensor_parallel
rollout.dtype
rollout.max_model_len
rollout.max_num_seqs
rollout.kv_cache_gib
rollout.gpu_memory_utilization
rollout.deadline_s
learner
learner.num_ranks
learner.cpus_per_rank
learner.gpus_per_rank
learner.zero_stage
learner.dtype
learner.layout
learner.micro_batch_tokens
learner.gradient_checkpointing
learner.offload_optimizer
learner.offload_parameters
learner.reference_on_cpu
learner.weight_transport
learner.lora
learner.lora.rank
learner.lora.alpha
learner.lora.parts
learner.checkpoint_every
learner.deadline_s
captioner
captioner.path
captioner.dtype
captioner.max_model_len
captioner.max_completion_tokens
captioner.max_pixels
captioner.system_prompt
captioner.instruction
captioner.temperature
reasoner
reasoner.path
reasoner.dtype
reasoner.max_model_len
reasoner.max_completion_tokens
reasoner.system_prompt
reasoner.instruction
reasoner.temperature
reward
reward.parts
reward.parts.name
reward.parts.weight
reward.parts.options
reward.parts.replicas
reward.parts.concurrency
reward.parts.num_cpus
reward.parts.num_gpus
reward.num_actors
reward.num_processes
reward.deadline_s
reward.memory_gb
reward.max_error_share
reward.queue
base
base.num_steps
base.num_epochs
base.batch_size
base.validation_share
base.optimizer
base.optimizer.learning_rate
base.optimizer.warmup
base.optimizer.final_lr
base.optimizer.weight_decay
base.optimizer.max_grad_norm
base.optimizer.betas
base.optimizer.freeze
iterations
iterations.distil
iterations.distil.source
iterations.distil.num_problems
iterations.distil.num_chains
iterations.distil.temperature
iterations.distil.problems
iterations.distil.problems.sources
iterations.distil.problems.tiers
iterations.distil.hard
iterations.distil.select
iterations.distil.traces_per_problem
iterations.distil.per_source
iterations.distil.filters
iterations.distil.filters.format
iterations.distil.filters.reflection
iterations.distil.filters.reflection_keywords
iterations.distil.filters.max_words
iterations.distil.filters.max_repetition
iterations.distil.filters.max_foreign
iterations.distil.filters.max_similarity
iterations.distil.filters.contamination
iterations.distil.endpoint
iterations.distil.endpoint.url
iterations.distil.endpoint.model
iterations.distil.endpoint.api_key_env
iterations.distil.endpoint.instruction
iterations.distil.endpoint.max_tokens
iterations.distil.endpoint.concurrency
iterations.distil.endpoint.num_attempts
iterations.distil.endpoint.deadline_s
iterations.sft
iterations.sft.num_steps
iterations.sft.num_epochs
iterations.sft.batch_size
iterations.sft.validation_share
iterations.sft.optimizer
iterations.sft.optimizer.learning_rate
iterations.sft.optimizer.warmup
iterations.sft.optimizer.final_lr
iterations.sft.optimizer.weight_decay
iterations.sft.optimizer.max_grad_norm
iterations.sft.optimizer.betas
iterations.sft.optimizer.freeze
iterations.grpo
iterations.grpo.num_steps
iterations.grpo.problems_per_step
iterations.grpo.problems
iterations.grpo.problems.sources
iterations.grpo.problems.tiers
iterations.grpo.num_completions
iterations.grpo.updates_per_step
iterations.grpo.dynamic_sampling
iterations.grpo.max_staleness
iterations.grpo.temperature
iterations.grpo.top_p
iterations.grpo.top_k
iterations.grpo.bad_words
iterations.grpo.advantage
iterations.grpo.ratio
iterations.grpo.clip_low
iterations.grpo.clip_high
iterations.grpo.clip_dual
iterations.grpo.kl_coef
iterations.grpo.kl_estimator
iterations.grpo.kl_in
iterations.grpo.rollout_correction
iterations.grpo.rollout_cap
iterations.grpo.normalisation
iterations.grpo.mask_truncated
iterations.grpo.sft_coef
iterations.grpo.sft_batch_size
iterations.grpo.max_parity_gap
iterations.grpo.max_flat_steps
iterations.grpo.keep_rollouts
iterations.grpo.optimizer
iterations.grpo.optimizer.learning_rate
iterations.grpo.optimizer.warmup
iterations.grpo.optimizer.final_lr
iterations.grpo.optimizer.weight_decay
iterations.grpo.optimizer.max_grad_norm
iterations.grpo.optimizer.betas
iterations.grpo.optimizer.freeze
eval
eval.temperature
eval.num_samples_shown
"""
