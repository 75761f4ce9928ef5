"""Pictures of a leaderboard. Oracle: where matplotlib puts what it draws."""

import warnings

from bench.board.plots import comparison, pixels
from tests.bench.made import make_record


def test_long_labels_leave_room_for_the_curves():
    labels = [f"gmm (code=8a255655 (torch 2.15.0, transformers 5.23.0), scoring=likelihood, models={number})" for number in range(9)]
    figure = comparison("made", {label: [make_record()] for label in labels})
    with warnings.catch_warnings(action="error"):  # matplotlib's, of axes that collapse
        pixels(figure)
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_position().width > 0.4
    assert legend.get_window_extent().y0 >= 0  # all labels are in the picture
