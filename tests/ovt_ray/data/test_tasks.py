"""Which problems a stage takes: by source, by how difficult they were, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.stages import ProblemChoice
from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Outcome, Problem, Score
from ovt_ray.data.difficulty import PassRate, add_pass_rates, begin_pass_rates, read_pass_rates, write_pass_rates
from ovt_ray.data.tasks import Tasks, Wanted, check_amounts, load_tasks
from ovt_ray.rl.stage import grpo_stage

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
RIGHT, WRONG, LATE = Outcome.CORRECT, Outcome.WRONG, Outcome.UNSCORABLE


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    """40 problems to learn from: 30 of source a, 10 of source b."""
    path, held_out = tmp_path / "rows.jsonl", tmp_path / "held_out.jsonl"
    rows = [{"id": f"{number}", "question": "?", "answer": "1", "source": "b" if number < 10 else "a"} for number in range(40)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    held_out.write_text('{"id": "x", "question": "Which?", "answer": "1"}')
    config = DataConfig(format="jsonl", path=path, eval_path=held_out)
    return load_tasks(config, 0, tmp_path / "images", tmp_path / "kept")


@pytest.fixture
def world(tmp_path: Path) -> Tasks:
    return load_tasks(DataConfig(format="embedded"), 0, tmp_path / "images", tmp_path / "kept")


def score(outcome: Outcome) -> Score:
    return Score(value=0, outcome=outcome, extracted=None)


def measured(folder: Path, outcomes: dict[Problem, list[Outcome]]) -> Path:
    """The folder of a stage that asked for these answers."""
    begin_pass_rates(folder, goes_on=False)
    add_pass_rates(folder, [(problem, [score(outcome) for outcome in given]) for problem, given in outcomes.items()])
    return folder


def test_a_mixture_has_its_ratio_at_every_prefix_and_other_problems_for_another_stage(tasks: Tasks) -> None:
    wanted = Wanted(purpose="iter1/distil", num=12, choice=ProblemChoice(sources={"a": 1, "b": 2}))
    problems = tasks.train(wanted)
    assert [Counter(problem.source for problem in problems[:num])["b"] for num in (3, 6, 9, 12)] == [2, 4, 6, 8]
    assert len({problem.id for problem in problems}) == 12
    assert tasks.train(wanted) == problems != tasks.train(Wanted(purpose="iter2/distil", num=12, choice=wanted.choice))


def test_without_a_choice_a_data_set_that_holds_fewer_gives_all_it_has(tasks: Tasks) -> None:
    assert len({problem.id for problem in tasks.train(Wanted(purpose="iter1/distil", num=100))}) == 40


def test_tiers_are_those_of_pass_rates(tmp_path: Path) -> None:
    tiers = [PassRate(num_correct=num, num_scored=8).tier for num in range(9)]
    assert tiers == ["unsolved", "hard", "hard", "hard", "medium", "medium", "medium", "easy", "easy"]
    tiers = [PassRate(num_correct=num, num_scored=5).tier for num in range(6)]
    assert tiers == ["unsolved", "hard", "medium", "medium", "easy", "easy"], "2 in 5 is medium, 4 in 5 is easy"


def test_a_tier_holds_the_problems_that_the_last_stage_before_put_into_it(tasks: Tasks, tmp_path: Path) -> None:
    problems = {problem.id: problem for problem in tasks.train(Wanted(purpose="", num=40))}
    first = measured(
        tmp_path / "first",
        {problems["1"]: [RIGHT, WRONG, WRONG, LATE], problems["2"]: [RIGHT] * 4, problems["3"]: [WRONG] * 4, problems["4"]: [RIGHT]},
    )
    second = measured(tmp_path / "second", {problems["2"]: [WRONG], problems["3"]: [LATE, LATE], problems["12"]: [RIGHT, WRONG, WRONG]})
    assert read_pass_rates([first])["1"] == PassRate(num_correct=1, num_scored=3)
    choice = ProblemChoice(tiers=("hard", "unsolved"))

    def ids(*folders: Path, choice: ProblemChoice = choice) -> set[str]:
        return {problem.id for problem in tasks.train(Wanted(purpose="p", num=9, choice=choice, measured_by=folders))}

    assert ids(first) == {"1", "3"}
    assert ids(first, second) == {"1", "2", "3", "12"}
    assert ids(first, second, choice=ProblemChoice(tiers=("hard",), sources={"a": 1})) == {"12"}
    with pytest.raises(DataError, match=r"tiers medium: .* there are easy 2, medium 0, hard 1, unsolved 1, and 36 not measured"):
        ids(first, choice=ProblemChoice(tiers=("medium",)))
    with pytest.raises(DataError, match=r"sources 'a': there is none of that name, but 'b' 2"):
        ids(first, choice=ProblemChoice(tiers=("hard", "unsolved"), sources={"a": 1}))


def test_a_problem_that_is_measured_again_has_the_last_rate_and_half_a_line_is_none(tasks: Tasks, tmp_path: Path) -> None:
    first, second = tasks.train(Wanted(purpose="", num=2))
    folder = measured(tmp_path / "stage", {first: [RIGHT], second: [RIGHT]})
    with (folder / "difficulty.jsonl").open("a") as file:
        file.write('{"id": "')
    begin_pass_rates(folder, goes_on=True)
    add_pass_rates(folder, [(first, [score(WRONG)])])
    assert {id: rate.tier for id, rate in read_pass_rates([folder]).items()} == {first.id: "unsolved", second.id: "easy"}
    write_pass_rates(folder, [(second, [score(WRONG)])])
    assert set(read_pass_rates([folder])) == {second.id}


def test_a_source_that_runs_dry_is_named_with_what_there_is(tasks: Tasks) -> None:
    wanted = Wanted(purpose="iter1/distil", num=30, choice=ProblemChoice(sources={"a": 0.5, "b": 0.5}))
    with pytest.raises(DataError, match="15 of 30 problems are to be of 'b', which runs dry: there are 'a' 30, 'b' 10"):
        tasks.train(wanted)
    endless = tasks.stream(wanted).take(0, 60)
    assert Counter(problem.source for problem in endless) == {"a": 30, "b": 30}, "a stream goes round each source by itself"
    assert set(Counter(problem.id for problem in endless if problem.source == "b").values()) == {3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iterations[0].distil.problems.sources={a: 1, c: 1}", "iterations.0.distil: problems.sources 'c': .* but 'a' 30, 'b' 10"),
        ("iterations[1].distil.problems.sources={b: 1}", "iterations.1.distil: .* 60 of 60 problems are to be of 'b', which runs dry"),
        ("iterations[0].grpo.problems.sources={b: 1}", "iterations.0.grpo: .* 32 of 32 problems are to be of 'b', which runs dry"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused_before_anything_starts(tasks: Tasks, override: str, message: str) -> None:
    dataset = [f"iterations[{turn}].distil={{source: dataset, num_problems: 60}}" for turn in (0, 1)]
    config = load_config(TINY, ["data.format=jsonl", "data.path=x", *dataset, override])
    with pytest.raises(DataError, match=message):
        for place, turn in enumerate(config.iterations):
            check_amounts(tasks, place, turn)


def test_a_tier_that_has_too_few_problems_for_one_step_is_refused_when_the_stage_begins(tasks: Tasks, tmp_path: Path) -> None:
    problems = tasks.train(Wanted(purpose="", num=40))
    hard = [*[one for one in problems if one.source == "a"][:6], *[one for one in problems if one.source == "b"][:2]]
    measured(tmp_path / "iter1/distil", {problem: [WRONG] for problem in hard})

    def stream(num_per_step: int, choice: str) -> None:
        overrides = [f"iterations[1].grpo.problems_per_step={num_per_step}", f"iterations[1].grpo.problems={choice}"]
        grpo_stage(load_config(TINY, overrides), 2, tasks, traces=[], run_dir=tmp_path)

    mixed = "{tiers: [unsolved], sources: {a: 1, b: 1}}"
    stream(8, "{tiers: [unsolved]}")
    stream(4, mixed)
    with pytest.raises(DataError, match="iter2/grpo: a step takes 9 different problems, and there are 'all' 8 to take from"):
        stream(9, "{tiers: [unsolved]}")
    with pytest.raises(DataError, match="iter2/grpo: problems.sources: 3 of 6 .* of 'b', which runs dry: there are 'a' 6, 'b' 2"):
        stream(6, mixed)


def test_kinds_of_the_embedded_world_are_sources_and_measured_problems_come_back(world: Tasks, tmp_path: Path) -> None:
    wanted = Wanted(purpose="iter1/distil", num=8, choice=ProblemChoice(sources={"height": 3, "total": 1}))
    problems = world.train(wanted)
    assert Counter(problem.source for problem in problems) == {"height": 6, "total": 2}
    assert len({problem.id for problem in problems}) == 8 and problems == world.train(wanted)
    folder = measured(tmp_path / "stage", {problem: [WRONG if number < 3 else RIGHT] for number, problem in enumerate(problems)})
    again = world.train(Wanted(purpose="iter1/grpo", num=99, choice=ProblemChoice(tiers=("unsolved",)), measured_by=(folder,)))
    assert sorted(again, key=lambda problem: problem.id) == sorted(problems[:3], key=lambda problem: problem.id)
    config = load_config(TINY, ["iterations[0].grpo.problems.sources={heigth: 1}"])
    with pytest.raises(DataError, match="'heigth': there is none of that name, but 'colour', .*'height'"):
        check_amounts(world, 0, config.iterations[0])
