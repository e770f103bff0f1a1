"""The pure parts of `python -m benchmarks.peers`."""

import json

import pytest

from benchmarks.peers import report, trl_phases


def test_the_phases_of_trl_do_not_overlap_and_add_up_to_the_step() -> None:
    nested = {"step": 10.0, "training": 9.0, "rollout": 4.0, "generate": 2.5, "logprobs": 0.5, "forward": 2.0}
    phases = trl_phases(nested)
    assert phases == {"generate": 2.5, "prepare": 1.0, "logprobs": 0.5, "forward": 2.0, "backward": 3.0, "rest": 1.0}
    assert sum(phases.values()) == nested["step"]


def test_the_speed_up_is_the_median_of_pairs_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    same = {"cpu": 1.0, "prompt_tokens": 8.0, "tokens": 16.0}
    ours = [{**same, "generate": 1.0, "score": 0.0, "update": 0.0, "sync": 0.0, "step": seconds} for seconds in (1.0, 10.0, 2.0)]
    nothing = dict.fromkeys(("prepare", "logprobs", "forward", "backward", "rest"), 0.0)
    theirs = [{**same, **nothing, "generate": 1.0, "step": seconds} for seconds in (4.0, 20.0, 6.0)]
    report(ours, theirs)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Pairs are 4, 2 and 3 times faster, of which the middle is 3.
    assert (figures["seconds_per_step"], figures["trl_seconds_per_step"], figures["speedup_over_trl"]) == (2.0, 6.0, 3.0)
