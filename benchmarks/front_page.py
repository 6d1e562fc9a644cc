"""The picture of the front page: DHMBPO and SAC on Hopper-v5, from the committed curves of reward_scale.py.

    python benchmarks/front_page.py

Writes docs/results/front_page.svg.
"""

from __future__ import annotations

from comparisons import curves
from experiments import RESULTS
from reward_scale import PAGE

from mbrl_wrappers.zoo.report.plots import learning_curves, new_figure, save_figure

ENV = "Hopper-v5"
# SAC is shown in both forms, since neither is clearly the better one here.
LABELS = {
    "DHMBPO, scaled critic": "DHMBPO, with a model",
    "SAC, raw": "SAC",
    "SAC, scaled": "SAC with scaled rewards",
}


def draw() -> None:
    """Write the picture."""
    figure, (ax,) = new_figure(1, "")
    figure.set_size_inches(7.0, 3.6)
    learning_curves(ax, {shown: list(curves(PAGE, ENV, label).values()) for label, shown in LABELS.items()})
    ax.set_title(f"{ENV}: one update per env step, three seeds", loc="left")
    save_figure(figure, RESULTS / "front_page.svg")


if __name__ == "__main__":
    draw()
