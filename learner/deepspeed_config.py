"""DeepSpeed's configuration, built from our typed section. Imports no DeepSpeed, so that it can be shown before anything starts."""

from typing import Any

from ovt_ray.core.config.run import LearnerConfig

BUCKET_ELEMENTS = 50_000_000
"""Elements reduced or gathered in one collective: DeepSpeed's own default would take gigabytes of GPU memory."""
PERSISTENT_ELEMENTS = 10_000
"""ZeRO-3 keeps smaller parameters (norms, biases) whole on every rank."""


def deepspeed_config(learner: LearnerConfig, max_grad_norm: float) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`, in DeepSpeed's own format.

    Batch sizes are 1 because the learner drives accumulation itself: micro-batches differ in size and number from update to update.
    """
    zero: dict[str, Any] = {"stage": learner.zero_stage, "reduce_bucket_size": BUCKET_ELEMENTS, "allgather_bucket_size": BUCKET_ELEMENTS}
    if learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": learner.gpus_per_rank > 0}
    if learner.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": learner.gpus_per_rank > 0}
    if learner.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = PERSISTENT_ELEMENTS
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": learner.dtype == "bfloat16"},
    }
    if learner.dtype == "bfloat16" and learner.zero_stage > 0:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def reference_config(learner: LearnerConfig) -> dict[str, Any]:
    """Return the configuration of the reference model's engine.

    Kept in host memory it is sharded whatever the policy is: ZeRO-3 brings it to the GPU layer by layer.
    """
    stage = 3 if learner.reference_on_cpu else learner.zero_stage
    changes = {"zero_stage": stage, "offload_parameters": learner.reference_on_cpu, "offload_optimizer": False}
    return deepspeed_config(learner.model_copy(update=changes), max_grad_norm=1.0)
