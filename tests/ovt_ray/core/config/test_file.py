"""A configuration is refused for any mistake, with the key, the value, the rule and the nearest known key."""

import json
from pathlib import Path

import pytest

from ovt_ray.cluster import gpus_needed
from ovt_ray.core.config.file import load_config, stored_config
from ovt_ray.core.errors import ConfigError

TINY = Path(__file__).parents[4] / "configs" / "tiny.yaml"


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TINY, list(overrides))
    return str(caught.value)


def test_the_shipped_configs_are_valid() -> None:
    assert load_config(TINY, []).name == "demo"
    assert load_config(TINY.with_name("tabmwp.yaml"), ["data.path=somewhere"]).data.format == "tabmwp"


def test_the_paper_s_recipe_is_valid() -> None:
    config = load_config(TINY.with_name("openvlthinker-7b.yaml"), [])
    sources = [turn.distil.source if turn.distil else "no traces" for turn in config.iterations]
    assert sources == ["caption", "policy", "policy", "no traces"], "the third iteration has two passes of RL"
    assert (config.captioner.path, config.reasoner.path) == ("Qwen/Qwen2.5-VL-3B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B")
    assert all((turn.grpo.problems_per_step, turn.grpo.updates_per_step, turn.grpo.kl_coef) == (512, 4, 0.01) for turn in config.iterations)


def test_the_paper_s_recipe_learns_from_the_problems_that_the_paper_names() -> None:
    config = load_config(TINY.with_name("openvlthinker-7b.yaml"), [])
    first, second, third, last = [turn.grpo for turn in config.iterations]
    choices = [grpo.problems for grpo in (first, second, third, last)]
    assert [choice and choice.tiers for choice in choices] == [("hard", "unsolved"), None, ("medium",), ("hard", "unsolved")]
    assert choices[0] and set(choices[0].sources or ()) == {"geometry3k", "geos", "figureqa", "clevr", "super_clevr"}
    assert config.iterations[1].distil and choices[1] == config.iterations[1].distil.problems
    assert (third.optimizer.freeze, last.optimizer.freeze) == (("vision_tower",), ())
    asked: set[str] = set()
    for turn in config.iterations:
        for choice in (*([turn.distil.problems] if turn.distil else []), turn.grpo.problems):
            assert choice and choice.sources, "every stage has a mixture"
            assert not choice.tiers or set(choice.sources) <= asked, "a tier holds only problems of sources that a stage before has asked"
            asked |= set(choice.sources)
    assert asked == {config.data.format, *(one.format for one in config.data.also)}


def test_overrides_reach_every_depth() -> None:
    config = load_config(TINY, ["seed=7", "iterations[1].grpo.optimizer.learning_rate=7e-5", "rollout.num_workers=2"])
    assert (config.seed, config.iterations[1].grpo.optimizer.learning_rate, config.rollout.num_workers) == (7, 7e-5, 2)
    assert config.iterations[0].grpo.optimizer.learning_rate != 7e-5


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    assert "iterations.0.grpo.num_step: unknown key; did you mean 'num_steps'?" in refusal("iterations[0].grpo.num_step=3")
    assert "learner.zero: unknown key; did you mean 'zero_stage'?" in refusal("learner.zero=3")


def test_an_unknown_key_without_a_near_one_is_refused_with_all_known_ones() -> None:
    assert "known keys: num_workers" in refusal("rollout.xyz=1")


def test_a_value_out_of_range_is_refused_with_rule_and_value() -> None:
    message = refusal("learner.num_ranks=0")
    assert "learner.num_ranks" in message and "greater than or equal to 1" in message and "got 0" in message


def test_all_mistakes_are_named_at_once() -> None:
    message = refusal("learner.num_ranks=0", "nam=x")
    assert "learner.num_ranks" in message and "nam: unknown key; did you mean 'name'?" in message


def test_a_list_with_a_bad_item_is_not_also_said_to_be_too_short() -> None:
    assert "at least 1 item" not in refusal("reward.parts=[{nam: x}]") and "at least 1 item" in refusal("reward.parts=[]")


def test_sections_that_contradict_each_other_are_refused() -> None:
    assert "needs a path: add data.path=PATH" in refusal("data.format=jsonl")
    assert "eval_path has no effect: format 'embedded' has held-out problems of its own" in refusal("data.eval_path=x")
    assert "also has no effect: problems of format 'embedded' are drawn" in refusal("data.also=[{format: jsonl, path: x}]")
    assert "also.0.format 'json' is unknown" in refusal("data.format=jsonl", "data.path=x", "data.also=[{format: json, path: x}]")
    assert "format 'json' is unknown; did you mean 'jsonl'?" in refusal("data.format=json", "data.path=x")
    assert "eval_format 'mathvisio' is unknown; did you mean 'mathvision'?" in refusal("data.eval_format=mathvisio")
    assert "eval_format 'mathvision' needs a path: add data.eval_path=PATH" in refusal("data.eval_format=mathvision")
    assert "eval_path has no effect: format 'clevr' has" in refusal("data.format=clevr", "data.path=x", "data.eval_path=y")
    assert "source 'caption' takes no temperature" in refusal("iterations[0].distil.temperature=0.5")
    jsonl = ("data.format=jsonl", "data.path=x", "iterations[0].distil={source: dataset, num_problems: 9}")
    assert "only data.format=embedded has a harder mixture" in refusal(*jsonl)
    assert "source 'dataset' takes no num_chains" in refusal("iterations[0].distil={source: dataset, num_problems: 9, num_chains: 2}")
    assert "leaves no room for a prompt" in refusal("rollout.max_model_len=20")
    assert "needs an RL model" in refusal("iterations[0].distil.source=policy")
    assert "sft without distil" in refusal("iterations[1].distil=null")


def test_an_iteration_without_traces_is_one_more_pass_of_rl() -> None:
    no_traces = [f"iterations[{turn}].{part}=null" for turn in (0, 1) for part in ("distil", "sft")]
    first, second = load_config(TINY, no_traces).iterations
    assert (first.distil, first.sft, second.distil, second.sft) == (None, None, None, None)
    assert "iterations.0.grpo.sft_coef mixes traces in, but no stage before it writes any" in refusal(
        "iterations[0].distil=null", "iterations[0].sft=null", "iterations[0].grpo.sft_coef=0.1"
    )
    assert "its corpus is drawn to fill num_steps batches" in refusal("base.num_epochs=1", "base.optimizer.learning_rate=1")
    assert "only model.path=embedded" in refusal("model.path=x", "base.num_steps=1", "base.optimizer.learning_rate=1")


def test_teachers_that_cannot_work_are_refused() -> None:
    assert "reasoner: instruction has no {question}" in refusal("reasoner.instruction='{caption}'")
    assert "captioner: max_completion_tokens (32) leaves no room for a prompt in max_model_len (16)" in refusal(
        "captioner.max_model_len=16"
    )
    assert "no room for a question next to a caption of captioner.max_completion_tokens (200)" in refusal(
        "captioner.max_completion_tokens=200"
    )


def test_what_becomes_a_trace_is_checked() -> None:
    assert "iterations.0.distil.filters.max_word: unknown key; did you mean 'max_words'?" in refusal(
        "iterations[0].distil.filters.max_word=3"
    )
    assert "select: Input should be 'shortest', 'longest', 'second_longest', 'random' or 'all'" in refusal(
        "iterations[0].distil.select=best"
    )
    all_of_one = ("iterations[0].distil.select=all", "iterations[0].distil.traces_per_problem=1")
    assert "select 'all' takes every chain that passes: leave traces_per_problem out" in refusal(*all_of_one)
    unused = "iterations[0].distil.filters={reflection: keep, reflection_keywords: [Hm]}"
    assert "reflection 'keep' looks for no reflection_keywords" in refusal(unused)
    assert "max_similarity: Input should be greater than 0" in refusal("iterations[0].distil.filters.max_similarity=0")
    server = "iterations[0].distil.endpoint={url: http://host:8000/v1, model: teacher}"
    assert "source 'caption' asks no endpoint: leave it out" in refusal(server)
    assert "source 'endpoint' needs an endpoint: add endpoint={url: ..., model: ...}" in refusal("iterations[0].distil.source=endpoint")
    assert load_config(TINY, [server, "iterations[0].distil.source=endpoint"]).iterations[0].distil.endpoint is not None
    assert "endpoint.url: String should match pattern" in refusal("iterations[0].distil.endpoint={url: host, model: teacher}")


def test_a_choice_of_problems_that_chooses_nothing_or_what_is_not_known_is_refused() -> None:
    assert "neither sources nor tiers is given" in refusal("iterations[0].grpo.problems={}")
    assert "problems.sources.height: Input should be greater than 0" in refusal("iterations[0].grpo.problems.sources={height: 0}")
    assert "Input should be 'easy', 'medium', 'hard' or 'unsolved'" in refusal("iterations[0].grpo.problems.tiers=[harder]")
    assert "iterations.0.distil.problems.tiers: no stage before it measures" in refusal("iterations[0].distil.problems.tiers=[hard]")
    assert "hard and problems both say" in refusal("iterations[1].distil.problems.tiers=[hard]")
    choice = load_config(TINY, ["iterations[0].grpo.problems={sources: {height: 1}, tiers: [hard, unsolved]}"]).iterations[0].grpo.problems
    assert choice is not None and (choice.sources, choice.tiers) == ({"height": 1}, ("hard", "unsolved"))


def test_the_length_of_sft_is_given_as_steps_or_as_epochs() -> None:
    both = refusal("iterations[0].sft.num_epochs=1.5")
    assert "iterations.0.sft: num_steps and num_epochs both" in both and "not num_steps 120 and num_epochs 1.5" in both
    assert "give one of them (null for the other), not neither" in refusal("iterations[0].sft.num_steps=null")
    section = load_config(TINY, ["iterations[0].sft.num_epochs=1.5", "iterations[0].sft.num_steps=null"]).iterations[0].sft
    assert (section.num_steps, section.num_epochs) == (None, 1.5)
    assert "num_epochs: Input should be greater than 0" in refusal("iterations[0].sft.num_epochs=0")
    assert "validation_share: Input should be less than 1" in refusal("iterations[0].sft.validation_share=1")


def test_a_stored_config_is_read_as_it_was_given(tmp_path: Path) -> None:
    """Where every key is given, one without an effect would be refused."""
    rewards = "reward.parts=[{name: a:b}, {name: c.py:d, weight: 2}]"
    for overrides in ([], ["iterations[0].grpo.kl_coef=0.1", "learner.lora={rank: 4, alpha: 8}", rewards]):
        config = load_config(TINY, overrides)
        (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
        assert stored_config(tmp_path / "config.json") == config


def test_what_is_no_override_is_refused() -> None:
    assert "'seed' is not of the form key=value" in refusal("seed")


def test_a_missing_file_and_broken_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(ConfigError, match="broken.yaml"):
        load_config(broken, [])


def test_offloading_is_refused_where_it_has_no_effect() -> None:
    assert "offload_optimizer needs zero_stage 2 or 3, got 0" in refusal("learner.zero_stage=0", "learner.offload_optimizer=true")
    assert "offload_parameters needs zero_stage 3, got 2" in refusal("learner.zero_stage=2", "learner.offload_parameters=true")
    assert "no effect where no grpo.kl_coef is above 0" in refusal("learner.reference_on_cpu=true")
    with_kl = ("iterations[0].grpo.kl_coef=0.1", "learner.reference_on_cpu=true")
    assert load_config(TINY, list(with_kl)).learner.reference_on_cpu
    assert "with lora the reference is the policy" in refusal(*with_kl, "learner.lora={rank: 4, alpha: 8}")


def test_an_engine_on_cpu_is_split_over_its_own_threads_and_one_with_gpus_over_them() -> None:
    split = load_config(TINY, ["rollout.tensor_parallel=2", "rollout.cpus_per_worker=4"]).rollout
    assert (split.num_shards, load_config(TINY, ["rollout.gpus_per_worker=8"]).rollout.num_shards) == (2, 8)
    assert load_config(TINY, []).rollout.num_shards == 1
    assert "gpus_per_worker splits others" in refusal("rollout.tensor_parallel=2", "rollout.gpus_per_worker=2")
    assert "tensor_parallel 2 does not divide" in refusal("rollout.tensor_parallel=2", "rollout.cpus_per_worker=3")


def test_learner_and_engine_may_share_a_gpu() -> None:
    shares = ["rollout.gpus_per_worker=0.4", "rollout.gpu_memory_utilization=0.35", "learner.gpus_per_rank=0.6"]
    config = load_config(TINY, shares)
    assert config.rollout.num_shards == 1 and gpus_needed(config) == pytest.approx(1)
    assert "gpus_per_worker 1.5 is neither a share of one GPU nor whole GPUs" in refusal("rollout.gpus_per_worker=1.5")
    assert "gpu_memory_utilization 0.85 is not less than gpus_per_worker 0.4, the engine's share" in refusal(shares[0])
    assert "gpus_per_rank 0.5 lets two of num_ranks 2 meet on one GPU" in refusal("learner.gpus_per_rank=0.5", "learner.num_ranks=2")
    sends = "learner.weight_transport=broadcast"
    assert load_config(TINY, [*shares, sends]).learner.weight_transport == "broadcast"
    assert "'broadcast' goes between whole GPUs, on one GPU" in refusal(*shares, sends, "rollout.gpus_per_worker=1")
    for more, total in (("learner.num_ranks=2", "1.6"), ("rollout.num_workers=2", "1.4")):
        assert f"ask for {total} in shares: set object_store" in refusal(*shares, sends, more)


def test_weights_are_broadcast_whole_and_between_devices_of_one_kind() -> None:
    sends = "learner.weight_transport=broadcast"
    assert load_config(TINY, []).learner.weight_transport == "object_store"
    assert load_config(TINY, [sends]).learner.weight_transport == "broadcast"
    assert load_config(TINY, [sends, "learner.gpus_per_rank=1", "rollout.gpus_per_worker=8"]).rollout.num_shards == 8
    assert "sends whole weights, but lora trains adapters alone: set object_store" in refusal(sends, "learner.lora={rank: 4, alpha: 8}")
    for of_one in ("learner.gpus_per_rank=1", "rollout.gpus_per_worker=1"):
        assert "learner.weight_transport: 'broadcast' goes between whole GPUs, on one GPU" in refusal(sends, of_one)
    assert "weight_transport: Input should be 'object_store' or 'broadcast'" in refusal("learner.weight_transport=nccl")


def test_adapters_and_frozen_parts_do_not_contradict_each_other() -> None:
    lora = "learner.lora={rank: 4, alpha: 8}"
    assert load_config(TINY, [lora]).learner.lora is not None  # what is frozen is not what has adapters
    message = refusal("learner.lora={rank: 4, alpha: 8, parts: [language_model, projector]}")
    assert "iterations.0.sft.optimizer.freeze: learner.lora.parts trains adapters in 'projector'" in message
    assert "random weights are not trained by adapters" in refusal(lora, "base={num_steps: 1, optimizer: {learning_rate: 1}}")
    assert "learner.lora.parts.0: Input should be 'vision_tower'" in refusal("learner.lora={rank: 4, alpha: 8, parts: [lm_head]}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kl_estimator=k2"], "kl_coef 0 keeps no reference model, so kl_estimator has no effect"),
        (["kl_in=reward"], "kl_coef 0 keeps no reference model, so kl_in has no effect"),
        (["kl_coef=0.1", "kl_estimator=k1"], "'k1' has an expected gradient of 0 in the loss"),
        (["max_staleness=1", "rollout_correction=none"], "max_staleness 1 learns from answers of older weights"),
        (["kl_coef=0.1", "kl_in=reward"], "kl_in 'reward' with kl_estimator 'k3' follows the gradient of no KL"),
        (["updates_per_step=2", "ratio=clipped_weight", "clip_dual=3"], "clip_dual has no effect"),
        (["rollout_correction=none", "rollout_cap=3"], "rollout_correction 'none' has no cap"),
        (["sft_batch_size=8"], "sft_coef 0 mixes no traces in, so sft_batch_size has no effect"),
        (["sft_coef=0.5", "temperature=0.7"], "sft_coef 0.5 is for a cross entropy at temperature 1"),
        (["sft_coef=-1"], "sft_coef: Input should be greater than or equal to 0, got -1"),
    ],
)
def test_options_of_the_policy_loss_without_an_effect_are_refused(overrides: list[str], message: str) -> None:
    assert message in refusal(*(f"iterations[0].grpo.{item}" for item in overrides))


def test_options_of_the_policy_loss_that_go_together_are_taken() -> None:
    overrides = ["updates_per_step=4", "ratio=sequence", "clip_dual=3", "kl_coef=0.1", "kl_in=reward", "kl_estimator=k1", "rollout_cap=3"]
    section = load_config(TINY, [f"iterations[0].grpo.{item}" for item in overrides]).iterations[0].grpo
    assert (section.ratio, section.clip_dual, section.kl_in, section.rollout_cap) == ("sequence", 3, "reward", 3)


def test_sampling_that_makes_ratios_inexact_is_allowed_with_a_warning() -> None:
    assert load_config(TINY, []).warnings == []
    (warning,) = load_config(TINY, ["iterations[1].grpo.top_p=0.99"]).warnings
    assert "iterations.1.grpo.top_p: 0.99" in warning and "importance ratios are inexact" in warning
    both = load_config(TINY, ["iterations[0].grpo.top_k=20", "iterations[0].grpo.bad_words=[blue]"]).warnings
    assert [warning.split(":")[0] for warning in both] == ["iterations.0.grpo.top_k", "iterations.0.grpo.bad_words"]
    assert "less than or equal to 1" in refusal("iterations[0].grpo.top_p=1.1")
