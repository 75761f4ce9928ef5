"""Pictures of a leaderboard. Oracle: where matplotlib puts what it draws."""

import warnings

import pytest

from bench.board.plots import comparison, pixels
from tests.bench.made import make_record

LONG = "gmm (code=8a255655 (torch 2.15.0, transformers 5.23.0), scoring=likelihood, models={})"


@pytest.mark.parametrize(("label", "count"), [(LONG, 9), ("method{}", 60), ("x" * 200 + "{}", 3)])
def test_labels_leave_room_for_the_curves(label, count):
    stream = "imagenet_r-b0-inc20-o1993-v2-split0f0f0f0f-skip3-224px"
    figure = comparison(stream, {label.format(number): [make_record()] for number in range(count)})
    with warnings.catch_warnings(action="error"):  # matplotlib's, of axes that collapse
        pixels(figure)
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_position().width > 0.4
    assert legend.get_window_extent().y0 >= 0  # all labels are in the picture
    assert axes.title.get_window_extent().x1 <= legend.get_window_extent().x0
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == count
