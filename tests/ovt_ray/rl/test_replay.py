"""`ovt-ray replay`: what it reads, compares and refuses; tests/ovt_ray/test_recipe.py replays a step on the real stack."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ovt_ray.cli import main
from ovt_ray.core.config.file import load_config
from ovt_ray.core.errors import DataError
from ovt_ray.core.types import ScoredGroup
from ovt_ray.rl.minibatches import AVERAGED
from ovt_ray.rl.replay import KeptStep, count_same, learn_again
from ovt_ray.rl.rollouts import KeptRollouts, read_rollouts, rollouts_path, write_rollouts
from tests.ovt_ray.rl.stream_world import SCORES, Asked, World, stage_in


def kept_groups(folder: Path) -> dict[int, ScoredGroup]:
    stage, world = stage_in(folder, 9), World(Random(0), 1, 3)
    answers = {position: world.answer(Asked(stage.problems[position], stage.sampling(0), 1)) for position in (2, 5)}
    return {position: ScoredGroup(group=group, scores=SCORES[position == 2]) for position, group in answers.items()}


def kept_step(folder: Path, step: int, figures: dict[str, float]) -> KeptStep:
    config = load_config(Path(__file__).parents[3] / "configs" / "tiny.yaml", [])
    rollouts = KeptRollouts(groups=tuple(kept_groups(folder).values()), rollout_is_proximal=True)
    return KeptStep(config=config, stage=stage_in(folder, 9), model="", step=step, rollouts=rollouts, figures=figures)


def test_rollouts_come_back_to_the_last_bit(tmp_path: Path) -> None:
    stage, groups = stage_in(tmp_path, 9), kept_groups(tmp_path)
    write_rollouts(stage.folder, 3, groups, rollout_is_proximal=True)
    kept = read_rollouts(stage.folder, 3, stage.problems)
    assert kept.groups == tuple(groups.values()) and kept.rollout_is_proximal


def test_missing_and_damaged_rollouts_are_named(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, 9)
    with pytest.raises(DataError, match="step-000003.jsonl: no such file.*grpo.keep_rollouts=true"):
        read_rollouts(stage.folder, 3, stage.problems)
    write_rollouts(stage.folder, 3, kept_groups(tmp_path), rollout_is_proximal=True)
    path = rollouts_path(stage.folder, 3)
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(DataError, match="does not hold the groups that its first line counts"):
        read_rollouts(stage.folder, 3, stage.problems)
    path.write_text(whole)
    with pytest.raises(DataError, match="where the run's data has"):
        read_rollouts(stage.folder, 3, stage_in(tmp_path, 8).problems)


def test_completions_are_counted_as_the_same_token_for_token(tmp_path: Path) -> None:
    first, second = kept_groups(tmp_path).values()
    one, other = second.group.completions
    changed = replace(other, token_ids=(*other.token_ids[:-1], other.token_ids[-1] + 1))
    again = [replace(second.group, completions=(one, changed)), first.group]
    assert count_same([first, second], again) == (3, 4)


def test_figures_that_are_not_the_recorded_ones_are_marked_at_step_0_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner, figures = World(Random(0), 1, 1), dict.fromkeys(AVERAGED, 1.0)
    assert learn_again(kept_step(tmp_path, 0, figures), learner)
    assert f"{len(AVERAGED)} of {len(AVERAGED)} figures are the recorded ones" in capsys.readouterr().out
    assert not learn_again(kept_step(tmp_path, 0, figures | {"loss": 1.0000000000000002}), learner)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("differs")] == ["loss"]
    learn_again(kept_step(tmp_path, 1, figures | {"loss": 2.0}), learner)
    assert "differs" not in capsys.readouterr().out
    assert learn_again(kept_step(tmp_path, 0, {}), learner), "a step that broke the learner has no figures to compare with"
    assert learner.learnt == [[kept_step(tmp_path, 0, {}).stage.problems[2].id] * 2] * 4, "the zero-variance group has no signal"


@pytest.mark.parametrize(
    ("stage", "message"),
    [("iter1/sft", "no stage of reinforcement learning; give iter1/grpo"), ("iter1/grpo", "config.json: not a configuration that a run")],
)
def test_what_cannot_be_replayed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, message: str) -> None:
    assert main(["replay", str(tmp_path), stage, "0"]) == 1
    assert message in capsys.readouterr().err
