"""Two sets of records: seed noise is not a difference, a shift beyond it is."""

import numpy as np
import pytest

from bench.board.compare import compare, interval, load, main
from data.errors import InputError
from tests.bench.made import make_record, write_record


def shifted(folder, seed: int, by: int) -> None:
    counts = make_record(seed=seed)["counts"]
    write_record(folder, seed=seed, counts=counts | {"correct": [[right - by for right in row] for row in counts["correct"]]})


def test_pairs_find_a_shift_that_seed_noise_would_hide(tmp_path):
    for seed in range(5):
        write_record(tmp_path / "a", seed=seed)
        shifted(tmp_path / "b", seed, by=1)
    found = compare(load(tmp_path / "a"), load(tmp_path / "b")).set_index("metric")
    last = found.loc["last_accuracy"]
    assert last["paired"] and last["verdict"] == "DIFFERS" and last["difference"] == pytest.approx(-1 / 50)
    assert found.loc["forgetting", "verdict"] != "DIFFERS"  # every accuracy fell alike
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert main([str(tmp_path / "a"), str(tmp_path / "a")]) == 0


def test_few_seeds_are_said_to_be_few(tmp_path):
    write_record(tmp_path / "a")
    shifted(tmp_path / "b", 0, by=5)
    assert set(compare(load(tmp_path / "a"), load(tmp_path / "b"))["verdict"]) >= {"fewer than 3 seeds: cannot be said"}


def test_the_interval_holds_the_difference_and_pairs_narrow_it():
    draw = np.random.default_rng(1)
    before = draw.normal(0.5, 0.05, 20)
    after = before + 0.01 + draw.normal(0, 0.001, 20)
    paired, loose = interval(before, after, True), interval(before, after, False)
    assert paired[0] < (after - before).mean() < paired[1]
    assert paired[1] - paired[0] < (loose[1] - loose[0]) / 5


def test_the_interval_is_students():
    """Oracle: 4.303, the t table's figure for three pairs. Where no seed moves anything nothing is left open."""
    assert interval(np.zeros(3), np.array([0.1, 0.3, 0.7]), True) == pytest.approx((11 / 30 - 0.7589, 11 / 30 + 0.7589), abs=1e-4)
    assert interval(np.full(3, 0.4), np.full(3, 0.5), False) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("paired", [True, False])
def test_seeds_that_do_not_differ_are_seldom_said_to(paired):
    """Of 400 times three normal seeds on both sides about one in twenty may lie outside; by their bootstrap it is every fifth."""
    draw = np.random.default_rng(0)
    missed = sum(low > 0 or high < 0 for low, high in (interval(*draw.normal(size=(2, 3)), paired) for _ in range(400)))
    assert missed < 40


def test_what_cannot_be_compared_is_one_sentence(tmp_path, capsys):
    write_record(tmp_path / "a")
    write_record(tmp_path / "b", method="lwf")
    write_record(tmp_path / "c", limited=True)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "no method on the same stream" in capsys.readouterr().err
    with pytest.raises(InputError, match="limited"):
        load(tmp_path / "c")
    write_record(tmp_path / "d", weights={"vit": "1"})
    write_record(tmp_path / "d", seed=1, weights={"vit": "2"})
    with pytest.raises(InputError, match="several published models"):
        load(tmp_path / "d")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "absent")


def test_what_is_on_one_side_alone_or_made_otherwise_is_said(tmp_path, capsys):
    for seed in range(3):
        config = {"method": {"name": "icarl", "lr": 0.1, "clip": None}, "stream": {"source": "made"}, "seed": seed}
        write_record(tmp_path / "a", seed=seed, config=config)
        write_record(tmp_path / "a", seed=seed, method="lwf")
        write_record(tmp_path / "b", seed=seed, config=config | {"method": config["method"] | {"lr": 0.2}})
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "in A alone, and not compared: lwf on made-b0-inc2-natural-v1" in said
    assert said.endswith("icarl on made-b0-inc2-natural-v1: A and B have other options: method.lr 0.1 / 0.2")  # and not null / null
