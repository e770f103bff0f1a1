"""Which chains become traces, and how every other one is accounted for."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Score
from ovt_ray.distil import Selection, read_traces, select, write_traces
from ovt_ray.distillation.accounts import FATES
from ovt_ray.distillation.chains import Chains


def problem(name: str = "p", source: str = "", question: str = "How many?") -> Problem:
    return Problem(id=name, question=question, images=(), answer="4", kind=AnswerKind.NUMBER, source=source)


def chains(*rows: tuple[str, Outcome], about: Problem | None = None) -> Chains:
    scores = tuple(Score(value=0.0, outcome=outcome, extracted=None) for _, outcome in rows)
    return Chains(problem=about or problem(), responses=tuple(text for text, _ in rows), scores=scores)


def correct(*thoughts: str, about: Problem | None = None) -> Chains:
    return chains(*((answer(thought), Outcome.CORRECT) for thought in thoughts), about=about)


def answer(thought: str, final: str = "4") -> str:
    return f"<think> {thought} </think> <answer> {final} </answer>"


def chosen(asked: list[Chains], evaluation: list[Problem] | None = None, seed: int = 0, **section: Any) -> Selection:
    values = {"source": "policy", "num_problems": len(asked), "num_chains": max(len(one.responses) for one in asked), **section}
    return select(asked, DistilConfig.model_validate(values), evaluation or [], seed)


def thoughts(selection: Selection) -> list[str]:
    return [trace.response.removeprefix("<think> ").partition(" </think>")[0] for trace in selection.traces]


def test_the_shortest_correct_chain_is_kept() -> None:
    asked = chains((answer("one two three"), Outcome.CORRECT), (answer("one"), Outcome.WRONG), (answer("one two"), Outcome.CORRECT))
    selection = chosen([asked])
    assert thoughts(selection) == ["one two"]
    assert (selection.report.num_responses, selection.report.num_correct, selection.report.num_traces) == (3, 2, 1)
    assert selection.report.fates == {"wrong": 1, "not_selected": 1, "trace": 1}


def test_length_is_measured_after_the_cut() -> None:
    asked = [correct("a b c d e f g h", about=problem("long")), correct("a b . Wait, c d e f g h i j", about=problem("saved"))]
    selection = chosen(asked, filters={"max_words": 9})
    assert thoughts(selection) == ["a b ."]
    assert selection.report.num_reflections_cut == 1
    assert [(drop.candidate.problem.id, drop.filter, drop.reason) for drop in selection.drops] == [
        ("long", "words", "13 words, more than 9")
    ]


def test_an_answer_without_a_thought_is_no_trace_however_short() -> None:
    selection = chosen([correct("Wait, 3 + 1 = 4 .", "3 + 1 = 4 .")])
    assert thoughts(selection) == ["3 + 1 = 4 ."]
    assert [(drop.candidate.index, drop.filter, drop.reason) for drop in selection.drops] == [
        (0, "thought", "nothing stands in its thinking before the first doubt")
    ]


def test_nothing_but_correct_chains_is_kept() -> None:
    selection = chosen([chains(*[(answer("x"), outcome) for outcome in (Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.UNSCORABLE)])])
    assert selection.traces == () and selection.report.fates == {"wrong": 1, "unparseable": 1, "unscorable": 1}


def test_chains_that_were_asked_for_and_did_not_come_are_counted() -> None:
    selection = chosen([correct("x"), correct(about=problem("q"))], num_chains=3)
    assert (selection.report.num_asked, selection.report.fates["unanswered"], selection.report.num_responses) == (6, 5, 1)


def test_a_data_set_is_asked_for_one_chain_of_each_problem() -> None:
    section = DistilConfig(source="dataset", num_problems=2)
    report = select([correct("x"), correct(about=problem("q"))], section, [], 0).report
    assert (report.num_asked, report.fates["unanswered"], report.num_traces) == (2, 1, 1)


LENGTHS = ("a b c", "a", "a b c d", "a b")


def test_each_rule_takes_what_its_name_says() -> None:
    assert thoughts(chosen([correct(*LENGTHS)])) == ["a"]
    assert thoughts(chosen([correct(*LENGTHS)], select="longest")) == ["a b c d"]
    assert thoughts(chosen([correct(*LENGTHS)], select="second_longest")) == ["a b c"]
    assert thoughts(chosen([correct(*LENGTHS)], select="all")) == list(LENGTHS)
    assert thoughts(chosen([correct(*LENGTHS)], select="shortest", traces_per_problem=3)) == ["a", "a b", "a b c"]
    assert thoughts(chosen([correct(*LENGTHS)], select="longest", traces_per_problem=2)) == ["a b c d", "a b c"]


def test_the_published_script_keeps_a_single_correct_chain_and_the_shorter_of_two() -> None:
    assert thoughts(chosen([correct("a b c")], select="second_longest")) == ["a b c"]
    assert thoughts(chosen([correct("a b c", "a")], select="second_longest")) == ["a"]
    two = chosen([correct(*LENGTHS)], select="second_longest", traces_per_problem=4)
    assert thoughts(two) == ["a b c", "a b", "a"] and two.report.fates["not_selected"] == 1


def test_a_random_choice_follows_from_the_seed_and_the_problem() -> None:
    def picks(seed: int, names: str) -> list[str]:
        asked = [correct(*LENGTHS, about=problem(name)) for name in names]
        selection = chosen(asked, seed=seed, select="random", filters={"max_similarity": None})
        return [trace.response for trace in sorted(selection.traces, key=lambda trace: trace.problem.id)]

    names = "abcdefghijkl"
    assert picks(1, names) == picks(1, names[::-1])
    assert picks(1, names) != picks(2, names) and len(set(picks(1, names))) > 1


def test_a_source_gives_no_more_traces_than_its_share() -> None:
    asked = [
        correct(f"thought {name}", about=problem(name, source, question=f"{name}?")) for name, source in zip("abcd", "xxyx", strict=True)
    ]
    selection = chosen(asked, per_source=2)
    assert [trace.problem.id for trace in selection.traces] == ["a", "b", "c"]
    (drop,) = selection.drops
    assert (drop.candidate.problem.id, drop.filter, drop.reason) == ("d", "per_source", "source 'x' has its 2 traces")
    assert selection.report.by_source == {"x": {"per_source": 1, "trace": 2}, "y": {"trace": 1}}


def test_the_files_say_what_was_kept_and_why_each_other_was_dropped(tmp_path: Path) -> None:
    asked = [correct("x \u2028 \U0001f600", about=problem("a", "s")), correct("", "y \ud800", about=problem("b", "s", "What?"))]
    selection = chosen(asked)
    assert read_traces(write_traces(tmp_path, selection)) == list(selection.traces)
    rows = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert rows == [
        {"id": "b", "index": 0, "filter": "thought", "reason": "nothing stands in its thinking"},
        {"id": "b", "index": 1, "filter": "format", "reason": "it holds U+D800, which is no text"},
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["by_source"] == {"s": {"unanswered": 1, "format": 1, "thought": 1, "trace": 1}}
    assert (report["num_asked"], report["num_responses"], report["num_correct"], report["num_traces"]) == (4, 3, 3, 1)
    assert [(example["filter"], example["response"]) for example in report["examples"]] == [
        ("format", answer("y \ud800")),
        ("thought", answer("")),
    ]


def test_the_line_for_people_names_what_dropped_anything() -> None:
    line = chosen([correct("", "a b c d", "a"), correct("b", about=problem("q", question="?"))], filters={"max_words": 7}).report.summary
    assert line == "4 chains: 4 correct, 0 with reflections cut; dropped 1 by thought, 1 by words; 2 traces kept for 2 problems"


TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "4", "Wait,", "a b c", "中文", "\x00", " "]), max_size=12
    ).map("".join),
    st.lists(st.sampled_from("abcd"), max_size=30).map(lambda letters: answer(" ".join(letters))),
)
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(list(Outcome))), max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(st.tuples(ROWS, st.sampled_from(["", "x"])), min_size=1, max_size=5),
    rule=st.sampled_from(["shortest", "longest", "second_longest", "random", "all"]),
    reflection=st.sampled_from(["cut", "drop", "keep"]),
    per_source=st.sampled_from([None, 1]),
)
def test_every_chain_has_one_fate_and_only_correct_ones_are_kept(
    asked: list[tuple[list[tuple[str, Outcome]], str]], rule: str, reflection: str, per_source: int | None
) -> None:
    given_chains = [chains(*rows, about=problem(f"p{place}", source)) for place, (rows, source) in enumerate(asked)]
    section = {"select": rule, "per_source": per_source, "filters": {"reflection": reflection}, "num_chains": 4}
    selection = chosen(given_chains, **section)
    assert sum(selection.report.fates.values()) == selection.report.num_asked == 4 * len(asked)
    assert set(selection.report.fates) <= set(FATES)
    num_correct = sum(outcome is Outcome.CORRECT for rows, _ in asked for _, outcome in rows)
    assert selection.report.num_correct == num_correct
    assert len(selection.traces) == selection.report.num_traces
    assert len(selection.traces) + len(selection.drops) + selection.report.fates["not_selected"] == num_correct
    per_problem = Counter(trace.problem.id for trace in selection.traces)
    assert rule == "all" or all(count == 1 for count in per_problem.values())
    for trace in selection.traces:
        rows = asked[int(trace.problem.id[1:])][0]
        final = trace.response.partition("</think>")[2]
        assert any(outcome is Outcome.CORRECT and text.partition("</think>")[2] == final for text, outcome in rows)
    again = chosen(given_chains, **section)
    assert again == selection
