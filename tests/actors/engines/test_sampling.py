"""Sampling on real engines is reproducible, keeps to the distribution that was asked for, and draws no image placeholder."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.pool import RolloutPool
from ovt_ray.core.config.run import ModelConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import AnswerKind, Problem
from tests.actors.engines.draws import by_id, sampling

pytestmark = pytest.mark.heavy


def test_every_problem_gets_its_group_once_with_as_many_completions_as_asked(pool: RolloutPool, problems: list[Problem]) -> None:
    groups = list(pool.generate(problems, sampling()))
    assert sorted(group.problem.id for group in groups) == sorted(problem.id for problem in problems)
    assert all(len(group.completions) == 4 for group in groups)
    assert len({completion.token_ids for completion in groups[0].completions}) > 1


def test_a_seed_gives_the_same_tokens_whatever_else_is_running(pool: RolloutPool, problems: list[Problem]) -> None:
    together = by_id(pool.generate(problems, sampling(seed=3)))
    alone = by_id(pool.generate(problems[5:6], sampling(seed=3)))
    assert together[problems[5].id] == alone[problems[5].id]
    assert together != by_id(pool.generate(problems, sampling(seed=4)))


def test_a_seed_gives_the_same_tokens_whatever_the_number_of_workers(pool: RolloutPool, problems: list[Problem]) -> None:
    slots, draw = pool.crew.slots.values(), sampling(seed=5)
    by_two = by_id(pool.generate(problems, draw))
    for alone in slots:
        for slot in slots:
            slot.is_behind = slot is not alone
        assert by_id(pool.generate(problems, draw)) == by_two
    for slot in slots:
        slot.is_behind = False


def test_a_completion_s_seed_follows_from_its_place_in_the_group(pool: RolloutPool, problems: list[Problem]) -> None:
    four = by_id(pool.generate(problems[:3], sampling(num_completions=4, seed=3)))
    two = by_id(pool.generate(problems[:3], sampling(num_completions=2, seed=3)))
    assert two == {name: completions[:2] for name, completions in four.items()}


def test_log_probabilities_are_those_of_the_distribution_that_top_p_leaves(pool: RolloutPool, problems: list[Problem]) -> None:
    """So little probability leaves only the likeliest token, which is then certain."""
    greedy = by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))
    narrow = by_id(pool.generate(problems, sampling(num_completions=1, top_p=1e-6)))
    for name, [(tokens, logprobs)] in narrow.items():
        assert tokens == greedy[name][0][0]
        assert logprobs == (0.0,) * len(tokens)


def test_only_the_likeliest_tokens_are_drawn_and_none_of_a_forbidden_word(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    greedy = by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))
    one = by_id(pool.generate(problems, replace(sampling(num_completions=1), top_k=1)))
    assert {name: tokens for name, [(tokens, _)] in one.items()} == {name: tokens for name, [(tokens, _)] in greedy.items()}

    def drawn(bad_words: tuple[str, ...] = ()) -> set[int]:
        groups = pool.generate(problems, replace(sampling(num_completions=1), bad_words=bad_words))
        return {token for group in groups for token in group.completions[0].token_ids}

    tokenizer = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).tokenizer
    words = {tokenizer.decode([token]): token for token in drawn()}
    forbidden = {word: token for word, token in words.items() if tokenizer(word)["input_ids"] == [token] and word.isalpha()}
    assert forbidden and not drawn(tuple(forbidden)) & set(forbidden.values())


def test_image_placeholders_are_never_sampled(pool: RolloutPool, problems: list[Problem], tiny_model: Path) -> None:
    forbidden = set(Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).placeholder_ids)
    assert len(forbidden) == 4
    hot = by_id(pool.generate(problems, sampling(num_completions=16, temperature=2.0)))
    seen = {token for completions in hot.values() for tokens, _ in completions for token in tokens}
    assert len(seen) > 200 and not seen & forbidden


def test_a_prompt_that_is_too_long_is_refused_by_name(pool: RolloutPool) -> None:
    long = Problem(id="long-one", question="word " * 500, images=(), answer="1", kind=AnswerKind.NUMBER)
    with pytest.raises(RolloutError, match="long-one"):
        list(pool.generate([long], sampling()))
