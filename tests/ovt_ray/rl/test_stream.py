"""What the loop of GRPO promises of groups, whatever order they end in and whenever it is killed; its pool and learner are fakes."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovt_ray.core.errors import StageError
from ovt_ray.core.types import ScoredGroup
from ovt_ray.grpo import train_grpo
from ovt_ray.rl.checkpoint import BegunStep, StreamState, read_state, write_state
from ovt_ray.rl.rollouts import read_rollouts
from ovt_ray.rl.samples import has_signal, oldest_version
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.rl.stream import GroupStream
from ovt_ray.run.metrics import read_metrics
from tests.ovt_ray.rl.stream_world import SCORES, Asked, KilledError, World, positions_by_step, resumed, stage_in

ROOT = Path(__file__).parents[3]


@dataclass
class Steps:
    """In place of a recorder: the figures of each step, which count as one more moment to be killed at."""

    world: World
    rows: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def begin(self, phase: str) -> None:
        pass

    def end_phases(self) -> Mapping[str, float]:
        return {"generate": 1.0}

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self.rows[step] = values
        self.world.tick()


def live(stage: GrpoStage, world: World) -> dict[int, Mapping[str, float]]:
    """Train from the newest checkpoint until the end or the kill; return the figures of each step that was done."""
    state = resumed(stage)
    steps = Steps(world)
    begun = {(stage.sampling(one.step).seed, group.group.problem.id) for one in state.begun for group in one.finished.values()}
    try:
        train_grpo(stage, world, steps, replace(state, rollout_is_exact=True))
    finally:
        assert not begun & set(world.submitted), "what a checkpoint has finished is not generated again"
        assert len(set(world.submitted)) == len(world.submitted), "nothing is generated twice"
    return steps.rows


def lives(stage: GrpoStage, random: Random, seed: int, zero_variance_share: float, kills: list[int]) -> World:
    """Train to the end, killed after so many events each time; return the world of the last life."""
    for ends_after in [*kills, 10**9]:
        state = resumed(stage)
        world = World(random, seed, max(1, state.version), zero_variance_share, ends_after)
        try:
            rows = live(stage, world)
        except KilledError:
            continue
        assert sorted(rows) == list(range(state.step, stage.section.num_steps))
        return world
    raise AssertionError


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_problems=st.sampled_from([3, 4, 7, 10, 200]),
    max_staleness=st.integers(0, 3),
    dynamic_sampling=st.booleans(),
    zero_variance_share=st.sampled_from([0.0, 0.3, 0.6]),
    checkpoint_every=st.integers(1, 3),
    kills=st.lists(st.integers(8, 40), max_size=3),
)
@pytest.mark.heavy
def test_what_is_learnt_from_is_young_enough_and_comes_once_and_nothing_is_lost(
    seed: int,
    num_problems: int,
    max_staleness: int,
    dynamic_sampling: bool,
    zero_variance_share: float,
    checkpoint_every: int,
    kills: list[int],
) -> None:
    with TemporaryDirectory() as folder:
        changes = {"max_staleness": max_staleness, "dynamic_sampling": dynamic_sampling, "max_flat_steps": 50}
        stage = stage_in(Path(folder), num_problems, checkpoint_every, **changes)
        lives(stage, Random(seed), 1, zero_variance_share, kills)
        steps = positions_by_step(stage)
        kept = [read_rollouts(stage.folder, step, stage.problems).groups for step in range(stage.section.num_steps)]
    version = 1
    for groups in kept:
        learnt = [group for group in groups if has_signal(group)]
        assert all(version - oldest_version(group) <= max_staleness for group in learnt), "none is older than it may be"
        version += bool(learnt)
        assert len(groups) == num_problems or len(learnt if dynamic_sampling else groups) == 3
        assert len({group.group.problem.id for group in groups}) == len(groups), "no step has a problem twice"
    positions = [position for step in steps for position in step]
    assert len(set(positions)) == len(positions), "no place of the stream is used twice, so no problem twice in an epoch"
    skipped = set(range(max(positions))) - set(positions)
    assert all(any(position < max(step) for step in steps) for position in skipped)
    if num_problems == 200:
        assert not skipped
    if max_staleness == 0:
        assert steps == by_hand(stage, zero_variance_share)


def by_hand(stage: GrpoStage, zero_variance_share: float) -> list[list[int]]:
    """Return the positions of each step without staleness: the first N from where it begins; N is P plus the zero-variance ones."""
    world, position, steps = World(Random(0), 1, 1, zero_variance_share), 0, []
    for step in range(stage.section.num_steps):
        had: dict[str, int] = {}
        num_left = 3
        while num_left and len(had) < len(stage.problems):
            problem = stage.problems[position]
            if problem.id not in had:
                had[problem.id] = position
                has_zero_variance = world.has_zero_variance(Asked(problem, stage.sampling(step), 1))
                num_left -= not (has_zero_variance and stage.section.dynamic_sampling)
            position += 1
        steps.append(list(had.values()))
    return steps


def group(stage: GrpoStage, position: int, version: int, *, is_mixed: bool = True) -> ScoredGroup:
    asked = Asked(stage.problems[position], stage.sampling(0), version)
    return ScoredGroup(group=World(Random(position), 1, version).answer(asked), scores=SCORES[is_mixed])


def test_a_group_of_a_checkpoint_that_is_too_old_is_generated_again_unless_it_has_no_signal(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, 9, max_staleness=1, num_steps=3)
    finished = {0: group(stage, 0, version=3), 1: group(stage, 1, version=8), 2: group(stage, 2, version=3, is_mixed=False)}
    state = StreamState(step=2, position=3, version=9, begun=(BegunStep(step=2, positions=(0, 1, 2), finished=finished),))
    world = World(Random(0), 1, 9)
    with GroupStream(stage, world, state) as stream:
        stream.generate(2)
        taken = stream.take(2)
    assert world.submitted == [(stage.sampling(2).seed, stage.problems[0].id)]
    assert taken.num_stale == 1 and oldest_version(taken.by_position[0]) == 9
    assert taken.by_position[1] == finished[1] and taken.by_position[2] == finished[2] and list(taken.by_position) == [0, 1, 2]


def test_zero_variance_groups_are_counted_and_too_many_in_a_row_end_the_run_with_the_reason(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, 200, dynamic_sampling=True, max_flat_steps=50)
    rows = live(stage, World(Random(0), 1, 1, zero_variance_share=0.5))
    assert [row["num_replaced"] for row in rows.values()] == [len(step) - 3 for step in positions_by_step(stage)]
    assert [row["flat_groups"] for row in rows.values()] == [1 - 3 / len(step) for step in positions_by_step(stage)]
    hopeless = stage_in(tmp_path / "hopeless", 200, dynamic_sampling=True, max_flat_steps=4)
    world = World(Random(0), 1, 1, zero_variance_share=1.0)
    with pytest.raises(
        StageError, match="1[234] problems in a row of step 0 had only groups whose answers all score alike.*0% were correct"
    ):
        live(hopeless, world)
    assert 12 <= len(world.submitted) <= 18 and world.learnt == [], "the groups begun beside the last of the row may be in work"


def test_a_step_that_has_had_every_problem_makes_do_with_groups_that_have_a_signal(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, 4, dynamic_sampling=True, num_steps=2, max_flat_steps=2)
    with pytest.raises(StageError, match="2 steps in a row"):
        live(stage, World(Random(0), 1, 1, zero_variance_share=1.0))
    assert [len(step) for step in positions_by_step(stage)] == [4, 4]


def test_a_state_comes_back_to_the_last_bit_and_only_with_its_checkpoint(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, 9)
    finished = {position: group(stage, position, version=4) for position in (4, 6)}
    begun = (BegunStep(step=2, positions=(4, 5, 6), finished=finished), BegunStep(step=3, positions=(7,), finished={}))
    state = StreamState(step=2, position=8, version=5, num_without_signal=1, begun=begun)
    write_state(stage.checkpoints, state)
    assert resumed(stage) == StreamState()
    World(Random(0), 1, 1).save(stage.checkpoints, 2)
    assert resumed(stage) == state
    assert not (stage.checkpoints / "incomplete").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda lines: None, "there is no such file"),
        (lambda lines: [], "it is empty"),
        (lambda lines: lines[:-1], "2 groups in line 1, step 2 and 1 in fact"),
        (lambda lines: [*lines[:2], lines[2][:50]], "2 groups in line 1, step 2 and 1 in fact"),
        (lambda lines: [lines[0], "{\n", *lines[2:]], "line 2: not JSON"),
        (lambda lines: [lines[0], lines[1], lines[1]], "line 3: step 2 has no problem, or another group of it"),
        (lambda lines: [lines[0], lines[1].replace('"num_tokens": ', '"num_tokens": 1'), lines[2]], "line 2: completions.0: .*tokens but"),
        (lambda lines: [lines[0], lines[1].replace('"id": "p', '"id": "q'), lines[2]], "line 2: problem 'q.' at position 4"),
        (lambda lines: [lines[0].replace('"version": 5', '"version": null'), *lines[1:]], "version"),
        (lambda lines: [lines[0].replace('"step": 2', '"step": 3', 1), *lines[1:]], "step 3 and 2 groups"),
    ],
)
def test_a_damaged_or_missing_state_is_named_with_what_to_do(tmp_path: Path, damage: object, reason: str) -> None:
    stage = stage_in(tmp_path, 9)
    finished = {position: group(stage, position, version=4) for position in (4, 6)}
    state = StreamState(step=2, position=8, version=5, begun=(BegunStep(step=2, positions=(4, 5, 6), finished=finished),))
    write_state(stage.checkpoints, state)
    World(Random(0), 1, 1).save(stage.checkpoints, 2)
    path = stage.checkpoints / "step-000002" / "stream.jsonl"
    lines = damage(path.read_text().splitlines(keepends=True))  # type: ignore[operator]
    if lines is None:
        path.unlink()
    else:
        path.write_text("".join(lines))
    with pytest.raises(StageError, match=f"{path}: .*{reason}.*remove {stage.checkpoints} and run the same command again"):
        read_state(stage.checkpoints, 2, stage.problems)


@pytest.mark.heavy
def test_a_stage_killed_as_a_process_uses_what_was_generated_ahead_and_ends(tmp_path: Path) -> None:
    begun = []
    for num_rows in (5, None):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ovt_ray.rl.stream_world", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        while num_rows and process.poll() is None and len(read_metrics(tmp_path)) < num_rows:
            time.sleep(0.002)
        if num_rows:
            process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if num_rows else 0)
        begun.append([int(word) for word in output.splitlines()[0].split() if word.isdigit()])
    assert begun[0] == [0, 0] and begun[1][0] in (2, 4) and begun[1][1] > 0, begun
    rows = read_metrics(tmp_path)
    assert [row.step for row in rows] == list(range(12)) and all(row.values["staleness_max"] <= 2 for row in rows)
    positions = [position for step in positions_by_step(stage_in(tmp_path, 500, num_steps=12)) for position in step]
    assert sorted(positions) == list(range(len(positions)))
