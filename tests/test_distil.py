"""Which chains become traces, and how every other one is accounted for."""

from pathlib import Path

from ovt_ray.distil import Chains, cut_reflection, read_traces, select, write_traces
from ovt_ray.types import AnswerKind, Outcome, Problem, Score

PROBLEM = Problem(id="p", question="How many?", images=(), answer="4", kind=AnswerKind.NUMBER)


def chains(*rows: tuple[str, Outcome]) -> Chains:
    scores = tuple(Score(value=0.0, outcome=outcome, extracted=None) for _, outcome in rows)
    return Chains(problem=PROBLEM, responses=tuple(text for text, _ in rows), scores=scores)


def answer(thought: str, final: str = "4") -> str:
    return f"<think> {thought} </think> <answer> {final} </answer>"


def test_the_shortest_correct_chain_is_kept() -> None:
    asked = chains((answer("one two three"), Outcome.CORRECT), (answer("one"), Outcome.WRONG), (answer("one two"), Outcome.CORRECT))
    traces, report = select([asked], max_words=50)
    assert [trace.response for trace in traces] == [answer("one two")]
    assert (report.num_responses, report.num_correct, report.num_traces) == (3, 2, 1)


def test_thinking_is_cut_at_the_first_reflection_and_the_answer_kept() -> None:
    assert cut_reflection(answer("2 + 2 = 4 . Wait, is it 5 ? But wait, no .")) == answer("2 + 2 = 4 .")


def test_a_word_that_only_contains_a_reflection_is_left_alone() -> None:
    assert cut_reflection(answer("the Waiter and the waiting room")) == answer("the Waiter and the waiting room")


def test_text_without_closed_thinking_is_left_alone() -> None:
    assert cut_reflection("<think> Wait, what") == "<think> Wait, what"


def test_length_is_measured_after_the_cut() -> None:
    long = answer("a b c d e f g h")
    saved = answer("a b . Wait, c d e f g h i j")
    traces, report = select([chains((long, Outcome.CORRECT)), chains((saved, Outcome.CORRECT))], max_words=9)
    assert [trace.response for trace in traces] == [answer("a b .")]
    assert (report.num_too_long, report.num_reflections_cut, report.num_problems) == (1, 1, 2)


def test_an_answer_without_a_thought_is_no_trace_however_short() -> None:
    asked = chains((answer("Wait, 3 + 1 = 4 ."), Outcome.CORRECT), (answer("3 + 1 = 4 ."), Outcome.CORRECT))
    traces, report = select([asked], max_words=50)
    assert [trace.response for trace in traces] == [answer("3 + 1 = 4 .")]
    assert (report.num_thoughtless, report.num_correct) == (1, 2)


def test_nothing_but_correct_chains_is_kept() -> None:
    asked = chains(*[(answer("x"), outcome) for outcome in (Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.UNSCORABLE)])
    traces, report = select([asked], max_words=9)
    assert traces == []
    assert (report.num_unparseable, report.num_unscorable, report.num_correct) == (1, 1, 0)


def test_traces_come_back_as_they_were_written(tmp_path: Path) -> None:
    traces, report = select([chains((answer("x \u2028 \U0001f600"), Outcome.CORRECT))], max_words=9)
    assert read_traces(write_traces(tmp_path, traces, report)) == traces
