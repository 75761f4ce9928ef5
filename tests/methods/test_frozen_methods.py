"""SimpleCIL, SLDA, RanPAC: closed form on frozen features.

Oracles: examples worked by hand, joint training on all rows, scikit-learn's ridge regression and discriminant analysis.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from data.errors import InputError
from data.stream import Rows, Task
from methods import ncm, ranpac, slda
from methods.config import CONFIGS
from methods.learning.moments import BLOCK, add_gram, gram, moments
from methods.learning.shifted import shifted_solutions
from methods.learning.training import Session, session
from methods.ranpac import RIDGES, ridge_errors, ridge_weights

R = torch.tensor([[1.0, -1, 0], [0, 1, 1]]).double()
ROWS, LABELS = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 1]]), torch.tensor([0, 1, 1, 0])
CPU, ONES = torch.device("cpu"), torch.ones(1, 1).double()


@pytest.fixture
def method(accelerator, monkeypatch):
    """name, features of the encoder, options -> a method whose rows are features already"""

    def build(name: str, wide: int = 2, **options):
        module = {"ncm": ncm, "simplecil": ncm, "slda": slda, "ranpac": ranpac}[name]
        monkeypatch.setattr(module, "encoder_of", lambda *_, **__: SimpleNamespace(features=wide, weights={}, module=None))
        kind = {"ncm": ncm.NCM, "simplecil": ncm.SimpleCIL, "slda": slda.SLDA, "ranpac": ranpac.RanPAC}[name]
        torch.manual_seed(0)
        return kind(CONFIGS[name](**options), accelerator)

    return build


def task(number: int, classes: range, rows: torch.Tensor, labels: torch.Tensor) -> Task:
    return Task(number, classes, tuple(map(str, classes)), Rows(rows[:, None], torch.arange(len(rows)), labels))


def learnt(method, parts) -> torch.nn.Module:
    for number, (classes, rows, labels) in enumerate(parts):
        with session(Session(0, number, len(parts))):
            method.learn(task(number, classes, rows, labels))
    return method


def scores(method, rows) -> torch.Tensor:
    return method.predict(torch.as_tensor(rows)[:, None]).scores


def gaussian(classes: int, each: int, wide: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(classes).repeat_interleave(each)
    return torch.randn(classes, wide, generator=generator)[labels] + torch.randn(len(labels), wide, generator=generator), labels


def test_simplecil_and_ncm_differ_in_one_normalisation(method):
    """Features (10, 0), (0, 1) of class 0 and (3, 1) of class 1: of raw features the long one rules."""
    part = [(range(2), torch.tensor([[10.0, 0], [0, 1], [3, 1]]), torch.tensor([0, 0, 1]))]
    queries = torch.tensor([[1.0, 0.15], [1, 0.7]])
    expected = {"simplecil": [[0.998789, 0.985097], [0.872228, 0.958536]], "ncm": [[0.804176, 0.985097], [0.984784, 0.958536]]}
    for name, values in expected.items():
        torch.testing.assert_close(scores(learnt(method(name), part), queries), torch.tensor(values).double(), atol=1e-6, rtol=0)
    assert ncm.NCM.variant(CONFIGS["ncm"](normalise=False)) == ncm.NCM.variant(CONFIGS["simplecil"]()) == "simplecil"
    assert ncm.NCM.variant(CONFIGS["ncm"]()) == "ncm"


def test_discriminant_by_hand(method):
    found = learnt(method("slda"), [(range(2), ROWS, LABELS)])
    expected = torch.tensor([[7.991216, -3.987626], [-3.987626, 11.978842]]).double()
    torch.testing.assert_close(found.weight, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.bias, torch.tensor([-4.996506, -4.992514]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores(found, [[3.0, 1]]), torch.tensor([[14.989517, -4.976550]]).double(), atol=1e-6, rtol=0)


def test_discriminant_of_scikit_learn(method):
    """With its shrinkage towards the mean variance at almost none, and equal priors; scores differ by a number a row."""
    rows, labels = gaussian(5, 40, 6)
    found = scores(learnt(method("slda", 6, shrinkage=1e-9), [(range(5), rows, labels)]), rows)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.2] * 5).fit(rows.double(), labels)
    assert np.allclose(torch.log_softmax(found, 1), theirs.predict_log_proba(rows.double()), atol=1e-5)


def test_random_projection_by_hand(method):
    found = method("ranpac", 2, projection=3, ridge=1.0)
    found.projection = R
    learnt(found, [(range(2), ROWS, LABELS)])
    assert found.second.triu().tolist() == [[6, 0, 3], [0, 1, 1], [0, 0, 3]] and found.sums.T.tolist() == [[3, 1], [0, 1], [1, 2]]
    expected = torch.tensor([[0.483871, -0.064516], [0.064516, 0.258065], [-0.129032, 0.483871]]).double()
    torch.testing.assert_close(found.weight, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(scores(found, [[3.0, 1]]), torch.tensor([[1.322581, 0.290323]]).double(), atol=1e-6, rtol=0)
    plain = learnt(method("ranpac", 2, projection=0, ridge=1.0), [(range(2), ROWS, LABELS)])
    torch.testing.assert_close(plain.weight, torch.tensor([[0.473684, -0.105263], [-0.105263, 0.578947]]).double(), atol=1e-6, rtol=0)
    assert ranpac.RanPAC.variant(plain.config) == "ranpac-no_rp" and ranpac.RanPAC.variant(found.config) == "ranpac"


def test_ridge_is_chosen_by_hand():
    """The row (1, 2) of class 1 is held out."""
    hidden, held = (ROWS.double() @ R).relu(), (torch.tensor([[1.0, 2]]).double() @ R).relu()
    targets = torch.nn.functional.one_hot(LABELS).double()
    errors = ridge_errors(hidden, targets, held, torch.tensor([[0.0, 1]]).double(), [1e-8, 1e-2, 0.1, 1.0, 10.0, 1e8])
    expected = torch.tensor([0.22222221, 0.21513008, 0.16951662, 0.05515088, 0.21481941, 0.49999994]).double()
    torch.testing.assert_close(errors, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("count", "wide"), [(30, 80), (80, 30), (30, 30)])
def test_ridge_errors_of_scikit_learn(count, wide):
    """Fewer rows than features and more, in which case the other decomposition serves."""
    generator = torch.Generator().manual_seed(count)
    fit, held = torch.rand(count, wide, generator=generator).double(), torch.rand(9, wide, generator=generator).double()
    targets, wanted = torch.rand(count, 3, generator=generator).double(), torch.rand(9, 3, generator=generator).double()
    ridges = [1e-4, 1.0, 1e3]
    fitted = [Ridge(ridge, fit_intercept=False, solver="svd").fit(fit, targets) for ridge in ridges]
    theirs = [((one.predict(held) - wanted.numpy()) ** 2).mean() for one in fitted]
    assert np.allclose(ridge_errors(fit, targets, held, wanted, ridges), theirs, rtol=1e-6)


def test_a_lambda_lost_by_rounding_is_not_chosen(method):
    """Rows that occur twice: H H^T has no inverse, and beside 1e12 a lambda of 1e-8 is nothing."""
    rows = torch.rand(20, 50, generator=torch.Generator().manual_seed(0)).repeat(2, 1) * 1e6
    labels = torch.arange(4).repeat_interleave(10)
    found = method("ranpac", 50, projection=0)
    with session(Session(0, 0, 1)):
        found.learn(task(0, range(4), rows, labels))
    assert found.ridge >= torch.finfo(torch.float64).eps * found.second.trace() > 1e-4
    errors = ridge_errors(1e6 * ONES.expand(4, 9), ONES.expand(4, 1), ONES.expand(1, 9), ONES, [1e-8, 1e6])
    assert errors[0] == torch.inf and torch.isfinite(errors[1])


def test_of_equal_errors_the_largest_lambda_is_chosen(method):
    """Targets of zero: every lambda errs by nothing."""
    found = method("ranpac", 3, projection=0)
    found.second = torch.eye(3).double()
    assert found.choose(torch.rand(10, 3).double(), torch.zeros(10, 2).double()) == RIDGES[-1]


@pytest.mark.parametrize("tile", [1, 3, 7, 64])
def test_gram(tile):
    rows, total = (torch.randn(count, 7, generator=torch.Generator().manual_seed(0)).double() for count in (5, 7))
    torch.testing.assert_close(gram(rows, tile), rows.T @ rows)
    torch.testing.assert_close(add_gram(total.clone(), rows, tile).triu(), (total + rows.T @ rows).triu())


def test_ridge_weights_read_the_upper_triangle_and_leave_it():
    rows, targets = (torch.randn(9, wide, generator=torch.Generator().manual_seed(wide)).double() for wide in (5, 3))
    second = torch.full((5, 5), torch.nan).double().tril(-1) + (rows.T @ rows).triu()
    before = second.clone()
    expected = torch.linalg.solve(rows.T @ rows + 2 * torch.eye(5).double(), rows.T @ targets)
    torch.testing.assert_close(ridge_weights(second, rows.T @ targets, 2.0), expected)
    torch.testing.assert_close(second, before, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize(("count", "width"), [(1, 2), (2, 2), (3, 2), (5, 2), (7, 3), (40, 16), (41, 8), (20, 64)])
def test_shifted_solutions(count, width):
    """Oracle: one plain solution a shift. Some columns are such that a reflection has nothing to do."""
    rows = torch.randn(count, count + 2, generator=torch.Generator().manual_seed(count)).double()
    right, shifts = torch.randn(count, 3, generator=torch.Generator().manual_seed(0)).double(), [0.5, 1.0, 1e3]
    for matrix in (rows @ rows.T, torch.eye(count).double(), (rows @ rows.T).tril(1).triu(-1) + 9 * count * torch.eye(count).double()):
        expected = torch.stack([torch.linalg.solve(matrix + shift * torch.eye(count).double(), right) for shift in shifts])
        found, failed = shifted_solutions(matrix.clone(), right, shifts, width)
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-9)
        assert not failed.any()
    whole = torch.full((count, count), 1e9).double()
    failed = shifted_solutions(whole, right, [-1e12, 1e12], width)[1]
    assert failed.tolist() == [True, False]


CLOSED = [("slda", {}), ("ranpac", {"projection": 40, "ridge": 10.0}), ("ranpac", {"projection": 0, "ridge": 10.0})]


@pytest.mark.parametrize(("name", "options"), CLOSED)
def test_tasks_make_what_all_rows_at_once_make(method, name, options):
    """Oracle: joint training; and the same classes in another order, whose columns change places."""
    rows, labels = gaussian(6, 30, 8)
    joint = learnt(method(name, 8, **options), [(range(6), rows, labels)])
    parts = [(range(start, start + 2), rows[labels // 2 == start // 2], labels[labels // 2 == start // 2]) for start in (0, 2, 4)]
    in_tasks = learnt(method(name, 8, **options), parts)
    torch.testing.assert_close(scores(in_tasks, rows), scores(joint, rows), atol=1e-9, rtol=1e-9)
    turned = [(range(start, start + 2), part, 5 - own) for start, (_, part, own) in zip((0, 2, 4), parts[::-1], strict=True)]
    backwards = learnt(method(name, 8, **options), turned)
    torch.testing.assert_close(scores(backwards, rows).flip(1), scores(joint, rows), atol=1e-9, rtol=1e-9)


def test_lambda_is_chosen_on_shuffled_rows(method):
    """Rows come class by class. Were the last fifth held out, it would be a class that the others do not show, and the largest lambda
    would win, which predicts nothing."""
    rows, labels = gaussian(5, 40, 8)
    found = method("ranpac", 8, projection=0)
    with session(Session(0, 0, 1)):
        found.learn(task(0, range(5), rows, labels))
    fit, held, targets = rows[:160].double(), rows[160:].double(), torch.eye(5).double()[labels]
    unshuffled = ridge_errors(fit, targets[:160], held, targets[160:], list(RIDGES))
    assert found.ridge in RIDGES and found.ridge <= 1e3 < RIDGES[int(unshuffled.argmin())]


def test_moments_of_many_blocks():
    """Oracle: one product over all rows."""
    rows = torch.randn(2 * BLOCK + 17, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(rows)) % 4
    second, sums = moments(rows, labels, 5, CPU)
    h = rows.double()
    torch.testing.assert_close(second, h.T @ h)
    torch.testing.assert_close(sums, torch.stack([h[labels == label].sum(0) for label in range(5)]))


def test_state_holds_all(method):
    rows, labels = gaussian(4, 10, 8)
    found = learnt(method("ranpac", 8, projection=20), [(range(4), rows, labels)])
    again = method("ranpac", 8, projection=20)
    again.draw(12345)
    again.load_state_dict(found.state_dict())
    assert torch.equal(scores(again, rows), scores(found, rows))
    assert {kept.kind: kept.bytes for kept in found.stored()} == {"second moments": 20 * 20 * 8, "class sums": 4 * 20 * 8}


def test_refused(method):
    with pytest.raises(InputError, match=r"method\.projection"):
        method("ranpac", projection=-1)
    with pytest.raises(InputError, match=r"method\.ridge"):
        method("ranpac", ridge=0.0)
    with pytest.raises(InputError, match=r"shrinkage"):
        method("slda", shrinkage=0.0)
    with pytest.raises(InputError, match="too small"):
        learnt(method("ranpac", projection=0), [(range(1), ROWS[:1], LABELS[:1])])
    with pytest.raises(InputError, match="lost by rounding"):
        ridge_weights(torch.ones(9, 9).double() * 1e12, torch.ones(9, 1).double(), 1e-8)
