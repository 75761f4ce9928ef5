"""The equations (K + l I) X = B for many l at the price of few: K is made a band matrix once, and a band is cheap to factorise.

An orthogonal change of coordinates leaves l I as it is. As blocks of its width the band is block tridiagonal. On any device, by products
and triangles of torch's alone. Shapes: n equations, c right sides, b the band's width, m rows below a panel, S shifts.
"""

import torch
from torch import Tensor
from torch.linalg import cholesky_ex, solve_triangular

WIDTH = 128


def shifted_solutions(matrix: Tensor, right: Tensor, shifts: list[float], width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """-> X [S, n, c], and for each shift whether it is lost by rounding, bool [S]: X is then of no meaning

    matrix: symmetric [n, n], changed in place; right: [n, c].
    """
    right, turns = right.clone(), []
    for start in range(width, len(matrix) - 1, width):
        turns.append((start, *_turn(matrix[start:, start - width : start], matrix[start:, start:], right[start:])))
    solved, failed = _block_tridiagonal(matrix, right, matrix.new_tensor(shifts), width)
    for start, y, t in reversed(turns):
        solved[:, start:] -= y @ (t @ (y.T @ solved[:, start:]))
    return solved, failed


def _turn(panel: Tensor, rest: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Make a triangle of a panel [m, b] by reflections H = I - Y T Y^T, and turn H^T `rest` H [m, m] and H^T `right` [m, c]: all in place.

    -> Y, T. Compact WY (Schreiber and Van Loan 1989), T from Puglisi 1992: its inverse is Y^T Y above the diagonal, and 1/tau on it.
    """
    packed, tau = torch.geqrf(panel)
    panel.copy_(packed.triu())
    y = packed[:, : len(tau)].tril(-1)
    y.diagonal().fill_(1)
    idle = tau == 0  # a column that needs no reflection
    y[:, idle] = 0
    inverse = (y.T @ y).triu(1)
    inverse.diagonal().copy_(torch.where(idle, 1, 1 / tau))
    t = solve_triangular(inverse, torch.eye(len(tau)).to(inverse), upper=True)
    z = y @ t
    w = rest @ z
    w -= y @ (z.T @ w) / 2
    rest.addmm_(torch.cat([y, w], 1), torch.cat([w, y], 1).T, alpha=-1)
    right -= y @ (t.T @ (y.T @ right))
    return y, t


def _block_tridiagonal(matrix: Tensor, right: Tensor, shifts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cholesky's factorisation by blocks, for all shifts at once, forwards and back. -> X [S, n, c], failed [S]"""
    blocks = torch.arange(len(matrix)).split(width)
    failed = torch.zeros(len(shifts), dtype=torch.bool, device=matrix.device)
    factors, forwards = [], []
    for number, at in enumerate(blocks):
        own = matrix[at[0] : at[-1] + 1, at[0] : at[-1] + 1] + shifts[:, None, None] * torch.eye(len(at)).to(matrix)
        have, below = right[at].expand(len(shifts), -1, -1), None
        if number:
            before = blocks[number - 1]
            edge = matrix[at[0] : at[-1] + 1, before[0] : before[-1] + 1].expand(len(shifts), -1, -1)
            below = solve_triangular(factors[-1][0].mT, edge, upper=True, left=False)  # [S, b, b]
            own, have = own - below @ below.mT, have - below @ forwards[-1]
        factor, info = cholesky_ex(own)
        failed |= info > 0
        factors.append((factor, below))
        forwards.append(solve_triangular(factor, have, upper=False))
    found: list[Tensor] = []
    for number in reversed(range(len(blocks))):
        have = forwards[number] - (factors[number + 1][1].mT @ found[-1] if found else 0)
        found.append(solve_triangular(factors[number][0].mT, have, upper=True))
    return torch.cat(found[::-1], 1), failed
