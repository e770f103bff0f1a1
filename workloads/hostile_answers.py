r"""Hostile answers of every kind of problem. None is right; a verifier has to survive each in time, without running any of it.

Each family of payloads attacks one weakness (deep nesting, size, backtracking, unicode, evaluation, reading several answers as
one). A payload is wrapped as a trained model would give it, in `<answer>` tags or a box, or left bare for the lenient reading.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ovt_ray.core.types import AnswerKind, Problem

CANARY = Path(tempfile.gettempdir()) / "ovt-ray-hostile-canary"
"""The file that a payload would create, were it executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A problem under attack."""

    problem: Problem
    near: str
    """A wrong answer that looks like the gold one."""


def _target(kind: AnswerKind, gold: str, near: str, choices: tuple[str, ...] = ()) -> Target:
    problem = Problem(id=f"hostile-{kind}-{gold}", question="?", images=(), answer=gold, kind=kind, choices=choices)
    return Target(problem=problem, near=near)


ANIMALS = ("zebra", "quokka", "gecko", "ibex")
TARGETS = (
    _target(AnswerKind.NUMBER, "271829", "271828"),
    _target(AnswerKind.NUMBER, "314.16", "31416"),
    _target(AnswerKind.TEXT, "quokka", "quagga"),
    _target(AnswerKind.CHOICE, "quokka", "gecko", ANIMALS),
    _target(AnswerKind.YESNO, "yes", "no"),
    _target(AnswerKind.YESNO, "no", "yes"),
    _target(AnswerKind.LATEX, "x^{2}+271829", "x^{2}-271829"),
    _target(AnswerKind.LIST, "[271829, 31337]", "[31337, 271829]"),
)
Payload = Callable[[Random, Target], str]

MAX_DEPTH = 10_000
MAX_CHARS = 1_000_000


def hostile_answers(num: int, seed: int) -> Iterator[tuple[Problem, str]]:
    """Yield `num` problems with a text that does not answer them; the same ones for the same seed.

    Families and problems take turns, so that any NUM_PAIRS in a row hold every pair.
    """
    rng = Random(seed)
    families = list(FAMILIES.values())
    for index in range(num):
        family = families[index % len(families)]
        target = TARGETS[index // len(families) % len(TARGETS)]
        yield target.problem, _wrapped(rng, family(rng, target), target.problem.answer)


def _wrapped(rng: Random, payload: str, gold: str) -> str:
    """Return the payload as a final answer, most often in the format that training accepts.

    Where the gold answer is part of it, the whole payload is marked as the answer: of bare text a lenient reader may rightly
    take the end.
    """
    marked = (
        "<think>Easy.</think><answer>{}</answer>",
        "<think>Easy.</think>\n<answer>\\boxed{{{}}}</answer>",
        "So we get $\\boxed{{{}}}$.",
    )
    bare = ("<think>Easy.</think> The answer is {}", "{}")
    forms = marked if gold in payload else marked + bare
    (form,) = rng.choices(forms, weights=(8, 2, 2, 2, 3)[: len(forms)])
    return form.format(payload)


def _depth(rng: Random) -> int:
    return rng.choice((3, 20, 200, 990, 3000, MAX_DEPTH))


def _length(rng: Random) -> int:
    """Return a size in characters; a megabyte is rare, because thousands of these are made."""
    (length,) = rng.choices((60, 900, 1001, 5_000, 30_000, 200_000, MAX_CHARS), weights=(8, 8, 8, 6, 4, 2, 1))
    return int(length)


def _repeat(unit: str, length: int) -> str:
    return unit * max(1, length // len(unit))


def power_tower(rng: Random, target: Target) -> str:
    """Exponents of exponents, in LaTeX and in Python's notation."""
    base, depth = rng.randint(3, 99), _depth(rng)
    forms = (
        f"{base}^{{" * depth + str(base) + "}" * depth,
        "**".join([str(base)] * depth),
        "^".join([str(base)] * depth),
        f"{base}^{{{base}^{{{base}^{{{base}}}}}}}",
        f"10^{{10^{{{base}}}}}",
        f"({base}^{{{base}}})!^{{{base}!}}",
        f"2^{{{10 ** rng.randint(6, 30)}}}",
        f"x^{{{10 ** rng.randint(6, 30)}}}+1",
    )
    return rng.choice(forms)


def deep_nesting(rng: Random, target: Target) -> str:
    """Brackets, fractions and roots inside each other, closed or not."""
    openings = (
        ("{", "}"),
        ("(", ")"),
        ("[", "]"),
        ("\\{", "\\}"),
        ("\\left(", "\\right)"),
        ("\\frac{1}{", "}"),
        ("\\frac{", "}{2}"),
        ("\\sqrt{", "}"),
        ("\\sqrt[3]{", "}"),
        ("\\boxed{", "}"),
        ("\\text{", "}"),
        ("|", "|"),
        ("-", ""),
        ("\\sin(", ")"),
        ("\\log_{2}", ""),
    )
    opening, closing = rng.choice(openings)
    depth = _depth(rng)
    num_closed = rng.choice((depth, depth, depth - 1, depth + 1, 0))
    return opening * depth + target.near + closing * num_closed


def large_text(rng: Random, target: Target) -> str:
    """One character, word or gold answer over and over."""
    gold = target.problem.answer
    unit = rng.choice(("a", "1", "x+", "word ", "0", "\n", " ", "9,", gold, gold + " ", target.near, "é", "漢", "😀"))
    return target.near + _repeat(unit, max(_length(rng), 2 * len(unit)))


def regex_bait(rng: Random, target: Target) -> str:
    """Text that sends a backtracking pattern over itself without end."""
    units = [" ", "1,111,", "a ", "$", "\\", ",", ".", "-", "1 ", "1.", "\\text{", "\\ ", "<answer>", "</answer>", "\\boxed{", "(A)", "**"]
    units += ["the answer is ", "Answer: ", "\t", "1e", "%", "and ", "x=", "1/", "((", "' ", "°", "_", "the ", "1:"]
    return _repeat(rng.choice(units), _length(rng)) + rng.choice(("!", "x", "\x00", target.near, "?", "\\"))


def invisible(rng: Random, target: Target) -> str:
    """Zero-width, right-to-left and combining characters in and around a wrong answer; some show the gold one reversed."""
    marks = "\u200b\u200c\u200d\u2060\ufeff\u202e\u202d\u2066\u2069\u200f\u061c\u0301\u0336\u20dd"
    noise = "".join(rng.choices(marks, k=rng.choice((1, 5, 300, 20_000))))
    near = target.near
    reverse = "\u202e" + ("x" + target.problem.answer)[::-1]
    return rng.choice((noise + near, near + noise, noise.join(near), reverse, noise[:5].join(reverse)))


def broken_unicode(rng: Random, target: Target) -> str:
    """Lone surrogates, null bytes and control characters."""
    marks = ("\ud800", "\udfff", "\udc80", "\ud83d", "\x00", "\x1b[2J", "\x07", "\x0c", "\x1a", "\x7f", "\ufffe", "\U0010ffff", "\u2028")
    mark = rng.choice(marks) * rng.choice((1, 2, 500))
    near = target.near
    return rng.choice((mark + near, near + mark, near[:1] + mark + near[1:] + "0", mark, f"{mark}{near}{mark}"))


def lookalike(rng: Random, target: Target) -> str:
    """Digits and letters of other scripts, ligatures that grow when normalised, numerals that `int` refuses."""
    digits = {
        "arabic": "٠١٢٣٤٥٦٧٨٩",
        "devanagari": "०१२३४५६७८९",
        "superscript": "⁰¹²³⁴⁵⁶⁷⁸⁹",
        "circled": "⓪①②③④⑤⑥⑦⑧⑨",
        "mathematical": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
    }
    table = str.maketrans("0123456789", rng.choice(list(digits.values())))
    answers = (
        str(rng.randint(300_000, 10**12)).translate(table),
        target.near.translate(table),
        "\ufdfa" * rng.choice((1, 500, 50_000)),
        "ﬃ" * rng.choice((10, 10_000)),
        "Ⅻ",
        "½" * rng.randint(2, 3000),
        "quоkkа",  # Cyrillic о and а
        "уеs",  # Cyrillic у and е
        "∞" * rng.randint(1, 50),
        "𝟗^𝟗^𝟗^𝟗",
        "İ" * rng.choice((1, 20_000)),
        "ß" * 5000,
    )
    return rng.choice(answers)


def code(rng: Random, target: Target) -> str:
    """Programs in place of an answer; executed, they create CANARY."""
    touch, path = f"touch {CANARY}", str(CANARY)
    programs = (
        f"__import__('os').system('{touch}')",
        f"__import__('pathlib').Path('{path}').touch()",
        f"open('{path}', 'w').close()",
        f"exec(\"open('{path}','w')\")",
        f"eval(\"__import__('os').system('{touch}')\")",
        f"().__class__.__base__.__subclasses__()[{rng.randint(0, 300)}]('{path}', 'w')",
        f"[c for c in ().__class__.__mro__[1].__subclasses__() if c.__name__ == 'Popen'][0]('{touch}', shell=True)",
        f"sympify(\"__import__('os').system('{touch}')\")",
        f"Symbol('x').func.__globals__['__builtins__']['open']('{path}','w')",
        f"lambda: __import__('os').system('{touch}')",
        f"$({touch})",
        f"`{touch}`",
        f"; {touch} ;",
        f"\\write18{{{touch}}}",
        f"\\immediate\\write18{{{touch}}}",
        "\\input{/etc/passwd}",
        f"\\openout1={path}",
        f"{{{{ ''.__class__.__mro__[1].__subclasses__()('{path}') }}}}",
        f"!!python/object/apply:os.system ['{touch}']",
        f"cposix\nsystem\n(S'{touch}'\ntR.",
        "{0.__class__.__init__.__globals__}",
        "%s%s%s%n%n%n%99999999d",
        "__import__('time').sleep(3600)",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "exit()",
        "raise SystemExit(0)",
        "import os; os.fork()",
    )
    program = rng.choice(programs)
    return rng.choice((program, f"${program}$", f"\\text{{{program}}}", f"x = {program}", f"[{program}, {program}]", f"1 + {program}"))


def symbolic_bomb(rng: Random, target: Target) -> str:
    """Short expressions whose evaluation or simplification does not end."""
    size = 10 ** rng.randint(4, 12)
    letters = "+".join(rng.sample("abcdfghjklmnpqrstuvwyz", rng.randint(3, 20)))
    rows = rng.choice((5, 40, 150))
    matrix = "\\\\".join("&".join(f"x_{{{row * rows + column}}}" for column in range(rows)) for row in range(rows))
    bombs = (
        f"{size}!",
        f"factorial({size})",
        f"factorial(factorial({size % 97 + 20}))",
        "(((9!)!)!)!",
        f"\\binom{{{size}}}{{{size // 2}}}",
        f"\\sum_{{n=1}}^{{{size}}} \\frac{{1}}{{n^3+\\sin n}}",
        f"\\prod_{{n=1}}^{{{size}}} (n^2+\\cos n)",
        "\\int_0^\\infty \\frac{\\sin(x^x)}{\\Gamma(x)+e^{x^{x}}} dx",
        "Integral(exp(sin(x**x))*gamma(x)**x, (x, 0, oo)).doit()",
        f"({letters})^{{{size}}}",
        f"expand(({letters})**{size})",
        f"\\lim_{{x \\to 0}} \\left(\\frac{{\\sin x}}{{x}}\\right)^{{{size}/x^{{x}}}}",
        f"\\begin{{pmatrix}}{matrix}\\end{{pmatrix}}^{{{size}}}",
        f"\\det\\begin{{vmatrix}}{matrix}\\end{{vmatrix}}",
        f"\\sqrt[{size}]{{{size}^{{{size}}}+1}}",
        f"factorint({'9' * rng.randint(60, 300)})",
        f"\\frac{{x^{{{size}}}-1}}{{x^{{{size - 1}}}-1}}",
        "+".join(f"\\sqrt{{{number}}}" for number in range(2, rng.choice((30, 80, 300)))) + "=0",
        "+".join(f"\\sin^{{{number}}}({number}x)" for number in range(2, rng.choice((10, 60)))),
        f"x^{{5}}-x-{size}=0",
        f"\\log_{{{size}}}(\\log_{{{size}}}(\\log_{{{size}}}({size}^{{{size}}})))",
        f"\\Gamma({size}.5)^{{\\zeta({size})}}",
        f"fibonacci({size})",
        f"\\tan(\\tan({size}^{{{size}}}))",
    )
    return rng.choice(bombs)


def huge_number(rng: Random, target: Target) -> str:
    """Numbers that exhaust the memory or the time of a program that builds them."""
    num_digits = _length(rng)
    forms = (
        f"1e{10 ** rng.randint(3, 18)}",
        f"-1e-{10 ** rng.randint(3, 18)}",
        f"3.7 \\times 10^{{{10 ** rng.randint(3, 18)}}}",
        "7" * num_digits,
        f"0.{'3' * num_digits}",
        f"{'7' * num_digits}/{'3' * (num_digits - 1)}",
        f"\\frac{{{'7' * num_digits}}}{{{'9' * num_digits}}}",
        "1" + ",000" * (num_digits // 4),
        "0x" + "f" * num_digits,
        f"{10 ** rng.randint(3, 300)} million billion trillion%",
        f"{rng.choice(('1/0', '0/0', 'nan', '-inf', '1e', '1e+', '1_000', '0b1', '--1', '1.2.3', '+-1'))}",
        f"{'9' * num_digits}:{'9' * num_digits} PM",
        f"{'9' * num_digits}-{'9' * 20}-{'9' * 20}",
        f"{'9' * num_digits}%",
        f"1{'%' * num_digits}",
        f"5 {'cm ' * num_digits}",
    )
    return rng.choice(forms)


def long_list(rng: Random, target: Target) -> str:
    """Lists, sets, chains and unions of many parts, which a matching in any order would try in every order."""
    num_parts = rng.choice((9, 15, 200, 5_000, 50_000))
    numbers = [str(rng.randint(1, 99)) for _ in range(num_parts)]
    forms = (
        "[" + ", ".join(numbers) + "]",
        "\\{" + ", ".join(numbers) + "\\}",
        "=".join(numbers),
        "\\cup".join(f"({number},{number}1)" for number in numbers),
        ", ".join(f"x={number}" for number in numbers),
        "[" + ",".join(f"[{number}]" for number in numbers) + "]",
        "\\pm".join(numbers),
        " or ".join(numbers),
        ";".join(numbers),
        ":".join(numbers),
        "<".join(numbers),
        " \\\\ ".join(numbers),
    )
    return rng.choice(forms)


def every_option(rng: Random, target: Target) -> str:
    """All answers at once, the gold one among them."""
    gold, near = target.problem.answer, target.near
    options = [gold, near, *ANIMALS] if target.problem.kind in (AnswerKind.TEXT, AnswerKind.CHOICE) else [gold, near]
    options = list(dict.fromkeys(options))
    rng.shuffle(options)
    joiner = rng.choice((" or ", " and ", " | ", "\n", "; ", " / ", " \\text{ or } "))
    sprays = (
        joiner.join(options),
        "either " + " or ".join(options),
        joiner.join(options * rng.choice((2, 50, 2000))),
        f"not {gold}",
        f"{near}, not {gold}",
        f"anything but {gold}",
        f"neither {gold} nor {near}",
        "(A) (B) (C) (D)",
        "A, B, C, D",
        "ABCD" * rng.choice((1, 1000)),
        "A or B or C or D or yes or no",
    )
    return rng.choice(sprays)


def several_tags(rng: Random, target: Target) -> str:
    """Tags and boxes that are doubled, crossed or never closed, around different answers."""
    gold, near, depth = target.problem.answer, target.near, _depth(rng)
    forms = (
        f"{near}</answer><answer>{gold}",
        f"{gold}</answer> or <answer>{near}",
        f"\\boxed{{{near}}} \\boxed{{{gold}}}",
        f"\\boxed{{{gold}}} or \\boxed{{{near}}}",
        "".join(f"</answer><answer>{option}" for option in (near, gold, near)),
        f"{near}</think><answer>{near}",
        "<think>" * depth + near,
        "<answer>" * depth + near,
        "</answer>" * depth + near,
        "\\boxed{" * depth + near,
        f"<answer>{near}<answer/>" * depth,
        f"<answ<answer>er>{near}</answ</answer>er>",
    )
    return rng.choice(forms)


FAMILIES: dict[str, Payload] = {
    "power towers": power_tower,
    "deep nesting": deep_nesting,
    "large texts": large_text,
    "regex baits": regex_bait,
    "invisible characters": invisible,
    "broken unicode": broken_unicode,
    "look-alikes": lookalike,
    "code": code,
    "symbolic bombs": symbolic_bomb,
    "huge numbers": huge_number,
    "long lists": long_list,
    "every option": every_option,
    "several tags": several_tags,
}
"""Payloads by the weakness that they attack, in the order in which they take turns."""
NUM_PAIRS = len(FAMILIES) * len(TARGETS)
"""Number of answers after which every family has met every problem."""
