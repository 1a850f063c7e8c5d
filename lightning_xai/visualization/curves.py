"""Figures of curves of several explainers, with bands."""

from collections.abc import Mapping
from typing import Protocol

from matplotlib.figure import Figure


class Band(Protocol):
    """A mean with its interval, drawn as a line in a band."""

    @property
    def mean(self) -> float:
        """The height of the line."""

    @property
    def low(self) -> float:
        """Lower end of the band."""

    @property
    def high(self) -> float:
        """Upper end of the band."""


#: Rows that are bounds rather than methods, and how they are drawn.
BOUNDS = {"random": ("tab:gray", "--"), "reversed": ("tab:brown", "--"), "oracle": ("black", "--")}


def visibility_figure(
    curves: Mapping[str, Mapping[float, Band]], leaks: Mapping[str, Mapping[float, Band]], title: str
) -> Figure:
    """Draw the Dice over the fraction of visible pixels: a line and a band for every explainer, its leak dotted.

    Args:
        curves: ``{explainer: {fraction: mean Dice and its interval}}``, the explainer under test first.
        leaks: The same with another content under the mask, for some or all of them; see
            :class:`~lightning_xai.metrics.VisibilityLeak`.
        title: Above the axes.

    Returns:
        The figure, which no window shows.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        color, style = BOUNDS.get(name, (f"C{number % 7}", "-"))
        percent = [100 * fraction for fraction in curve]
        means, lows, highs = ([getattr(value, end) for value in curve.values()] for end in ("mean", "low", "high"))
        axes.plot(percent, means, style, color=color, label=name, linewidth=2.5 if number == 0 else 1.3)
        axes.fill_between(percent, lows, highs, color=color, alpha=0.12, linewidth=0)
        if name in leaks and name not in BOUNDS:
            leak = leaks[name]
            axes.plot([100 * fraction for fraction in leak], [value.mean for value in leak.values()], ":", color=color)
    axes.set(xlabel="visible pixels (%)", ylabel="Dice", xlim=(0, 100), ylim=(0, 1), title=title)
    if leaks:
        axes.plot([], [], ":", color="black", label="the same mask over\nother content")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
