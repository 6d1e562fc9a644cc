"""Pictures: what is drawn, and that all of it is inside."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import same_color
from matplotlib.image import imread

from mbrl_wrappers.zoo.analysis.findings import Calibration
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.report.plots import (
    learning_curves,
    new_figure,
    save_figure,
    save_training_figure,
    spread_calibration,
)
from mbrl_wrappers.zoo.training.progress import Evaluation


def rows(returns: list[float], every: int = 100) -> list[Evaluation]:
    return [Evaluation(every * (i + 1), value, 1.0, 10 * i, 1.0, 1.0) for i, value in enumerate(returns)]


ERROR = [HorizonError(step, 0.1 * step, 0.2 * step, 0.4 * step) for step in range(1, 31)]


def test_learning_curves_draw_the_mean_and_each_seed_thin():
    _, (ax,) = new_figure(1, "title")
    learning_curves(ax, {"a": [rows([0, 2, 4]), rows([2, 4, 10])], "b": [rows([1, 1, 1])]})
    thin, thin_too, mean, single = ax.get_lines()
    assert thin.get_ydata().tolist() == [0, 2, 4] and thin_too.get_ydata().tolist() == [2, 4, 10]
    assert mean.get_xdata().tolist() == [100, 200, 300] and mean.get_ydata().tolist() == [1, 3, 7]
    assert single.get_ydata().tolist() == [1, 1, 1]
    assert mean.get_linewidth() > 2 * thin.get_linewidth()
    assert same_color(mean.get_color(), thin.get_color()) and not same_color(mean.get_color(), single.get_color())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_the_mean_ends_with_the_shortest_seed_and_interpolates_between_rows():
    _, (ax,) = new_figure(1, "title")
    learning_curves(ax, {"a": [rows([0, 10, 20, 30]), rows([4, 8], every=150)]})
    mean = ax.get_lines()[-1]
    assert mean.get_xdata().tolist() == [150, 200, 300]
    np.testing.assert_allclose(mean.get_ydata(), [(5 + 4) / 2, (10 + 16 / 3) / 2, (20 + 8) / 2])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_training_figure_is_written_the_same_every_time(tmp_path, suffix):
    curves = {"MBPO(SAC)": rows([-1500.0, -800.0, -150.0]), "SAC": rows([-1500.0, -1600.0, -900.0])}
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        save_training_figure(file, "MBPO(SAC) on Pendulum-v1", curves, ERROR)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert pyplot.get_fignums() == []


def test_nothing_is_clipped(tmp_path):
    long_names = {"MBPO(CrossQ) of a long name": rows([-123456.0, 99999.0]), "CrossQ": rows([0.5, 0.25])}
    save_training_figure(tmp_path / "a.png", "MBPO(CrossQ) on package.module:AnEnvironment", long_names, ERROR)
    image = imread(tmp_path / "a.png")[..., :3]
    assert image.shape[0] >= 500 and image.shape[1] >= 1000
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 1).all()  # white all around: no text touches the border


def test_a_figure_has_one_style_whatever_the_user_set(tmp_path):
    def draw(name: str) -> bytes:
        figure, (ax,) = new_figure(1, "title")
        learning_curves(ax, {"a": [rows([1, 2])]})
        save_figure(figure, tmp_path / name)
        return (tmp_path / name).read_bytes()

    usual = draw("a.png")
    with pyplot.rc_context({"font.size": 30, "axes.grid": False, "figure.dpi": 40}):
        assert draw("b.png") == usual


@pytest.mark.parametrize(
    "spread",
    [[(1.2, 1.0), (2.0, 3.0)], [(0.3, 0.06), (1.1, 1.1)], [(0.02, 0.02), (1.0, 1.0)], [(1e-4, 1e-4), (1.0, 2.0)]],
)
def test_the_axes_of_a_spread_have_numbers_to_read_off(spread):
    figure, (ax,) = new_figure(1, "spread")
    spread_calibration(ax, Calibration(spread, []))
    figure.canvas.draw()
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        labels = [float(label.get_text()) for label in axis.get_ticklabels() if label.get_text()]
        assert len([label for label in labels if low <= label <= high]) >= 3
