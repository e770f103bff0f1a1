"""The picture of a run: accuracy of its stages with intervals, and the curves of reward, length and loss."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovt_ray.run.metrics import MetricsRow
from ovt_ray.run.results import StageResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#22262e", "#a9b0bb"
STAGE_COLOURS = {"base": "#7d8694", "sft": "#3b78c9", "grpo": "#e0702a"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": "#596171",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e9ecf0",
    "axes.axisbelow": True,
    "xtick.color": "#596171",
    "ytick.color": "#596171",
    "legend.frameon": False,
}
SMOOTHING = 0.6
"""Weight of the past in the thick curves. The thin curves show the measured values."""


def draw_curves(title: str, results: Sequence[StageResult], rows: Sequence[MetricsRow]) -> bytes:
    """Return a PNG of the run so far; a panel without figures yet says so."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.15, 1), hspace=0.08, wspace=0.06)
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        _draw_accuracy(figure.add_subplot(grid[0, :]), results)
        _draw_reward(figure.add_subplot(grid[1, 0]), rows)
        _draw_length(figure.add_subplot(grid[1, 1]), rows)
        _draw_loss(figure.add_subplot(grid[1, 2]), rows)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_figure(picture, dpi=150, facecolor="white")
    return picture.getvalue()


def stage_label(result: StageResult) -> str:
    """Return a stage's name for a reader: `base`, `SFT 1`, `GRPO 1`."""
    return "base" if result.stage == "base" else f"{result.stage.upper()} {result.iteration}"


def _draw_accuracy(axes: "Axes", results: Sequence[StageResult]) -> None:
    count = f" (greedy, {results[0].num_problems:,} problems, 95 % intervals)" if results else ""
    axes.set_title("Accuracy on held-out problems" + count)
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    if not results:
        return _say(axes, "no stage is evaluated yet")
    axes.plot([result.accuracy for result in results], color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for position, result in enumerate(results):
        colour = STAGE_COLOURS.get(result.stage, INK)
        below, above = result.accuracy - result.ci_low, result.ci_high - result.accuracy
        axes.errorbar(position, result.accuracy, [[below], [above]], fmt="o", color=colour, markersize=9, linewidth=2.2, capsize=5)
        text = f"{result.accuracy:.1%}".replace("%", " %")
        axes.annotate(
            text, (position, result.ci_low), (0, -8), textcoords="offset points", ha="center", va="top", weight="bold", color=colour
        )
    axes.set_xticks(range(len(results)), [stage_label(result) for result in results], fontsize=10.5, color=INK)
    axes.set_xlim(-0.4, max(len(results), 2) - 0.4)


def _draw_reward(axes: "Axes", rows: Sequence[MetricsRow]) -> None:
    axes.set_title("GRPO: reward and accuracy")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("step")
    curves = _by_stage(rows, "grpo", "reward")
    accuracy = _by_stage(rows, "grpo", "accuracy")
    if not curves:
        return _say(axes, "no GRPO step is done yet")
    for (stage, (steps, values)), colour in zip(curves.items(), _shades("Oranges", len(curves)), strict=True):
        _draw_curve(axes, steps, values, label=f"reward, {_iteration(stage)}", colour=colour)
        if stage in accuracy and accuracy[stage] != curves[stage]:
            axes.plot(accuracy[stage][0], _smooth(accuracy[stage][1]), ":", color=colour, label=f"accuracy, {_iteration(stage)}")
    same = all(accuracy.get(stage) == curve for stage, curve in curves.items())
    axes.legend(loc="lower right", title="reward is 1 if correct, else 0" if same else None, title_fontsize=8)


def _draw_length(axes: "Axes", rows: Sequence[MetricsRow]) -> None:
    axes.set_title("GRPO: response length")
    axes.set_ylabel("tokens")
    axes.set_xlabel("step")
    curves = _by_stage(rows, "grpo", "response_tokens")
    if not curves:
        return _say(axes, "no GRPO step is done yet")
    for (stage, (steps, values)), colour in zip(curves.items(), _shades("Oranges", len(curves)), strict=True):
        _draw_curve(axes, steps, values, label=_iteration(stage), colour=colour)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")


def _draw_loss(axes: "Axes", rows: Sequence[MetricsRow]) -> None:
    axes.set_title("Supervised loss (nats per token)")
    axes.set_xlabel("step")
    base, sft = _by_stage(rows, "base", "loss"), _by_stage(rows, "sft", "loss")
    validation = _by_stage(rows, "base", "validation_loss") | _by_stage(rows, "sft", "validation_loss")
    if not base and not sft:
        return _say(axes, "no supervised step is done yet")
    colours = [STAGE_COLOURS["base"]] * len(base) + _shades("Blues", len(sft))
    for (stage, (steps, values)), colour in zip((base | sft).items(), colours, strict=True):
        label = "base" if stage in base else f"SFT, {_iteration(stage)}"
        axes.plot(steps, values, color=colour, label=label, marker=_marker(steps))
        if stage in validation:
            axes.plot(*validation[stage], "o:", color=colour, markersize=3, label=f"{label}, held out")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_curve(axes: "Axes", steps: list[int], values: list[float], *, label: str, colour: object) -> None:
    axes.plot(steps, values, color=colour, linewidth=0.9, alpha=0.4)
    axes.plot(steps, _smooth(values), color=colour, linewidth=2.2, label=label, marker=_marker(steps))


def _marker(steps: list[int]) -> str:
    """Return the marker that makes a curve of a single step visible."""
    return "o" if len(steps) == 1 else ""


def _by_stage(rows: Sequence[MetricsRow], kind: str, name: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return (steps, values) of one figure for each stage of a kind, in the order the stages ran. Steps count from 1."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        if row.stage.endswith(f"/{kind}") and name in row.values:
            steps, values = curves.setdefault(row.stage, ([], []))
            steps.append(row.step + 1)
            values.append(row.values[name])
    return curves


def _smooth(values: list[float]) -> list[float]:
    """Return the exponential moving average without start-up bias (Kingma & Ba, arXiv 1412.6980, sec. 3). NaN does not change it."""
    total, weight, smoothed = 0.0, 0.0, []
    for value in values:
        if not math.isnan(value):
            total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        smoothed.append(total / weight if weight else value)
    return smoothed


def _shades(colormap: str, count: int) -> list[object]:
    """Return shades of one colour, light for the first iteration to dark for the last."""
    from matplotlib import colormaps

    if count == 1:
        return [colormaps[colormap](0.65)]
    return [colormaps[colormap](0.5 + 0.4 * position / (count - 1)) for position in range(count)]


def _iteration(stage: str) -> str:
    return stage.partition("/")[0].replace("iter", "iteration ")


def _say(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)
    axes.set_xticks([])
