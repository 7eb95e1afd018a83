"""Derive the coefficients of fastrnn/cpu/activations.py.

    eʳ - 1 ~ r + r² q(r)  on |r| <= ln 2 / 2, q of the least degree that the precision needs

q minimises the largest relative error: the Remez exchange (Remez, 1934) in 60 digits. The coefficients are then rounded to
the dtype one after the other, the first first, and those that follow are derived again around the rounded ones.
Needs mpmath and numpy. prints the table of constants; takes two minutes.
"""

import argparse

import mpmath as mp
import numpy as np

mp.mp.dps = 60
EDGE = mp.log(2) / 2 * mp.mpf("1.001")  # a little wider: r is rounded


def error(coefficients, r):
    """Relative error of the approximation at r."""
    if r == 0:
        return mp.mpf(0)
    q = mp.polyval(coefficients[::-1], r)
    return (r + r * r * q) / mp.expm1(r) - 1


def solve(fixed, free, points):
    """The coefficients whose relative error alternates between +e and -e at the points, those in `fixed` given."""
    n = len(points)
    matrix, right = mp.matrix(n, n), mp.matrix(n, 1)
    for i, r in enumerate(points):
        scale = r * r / mp.expm1(r)
        for k in range(free):
            matrix[i, k] = scale * r ** (len(fixed) + k)
        matrix[i, free] = (-1) ** i
        right[i] = -error(fixed, r) if fixed else 1 - r / mp.expm1(r)
    return [*fixed, *mp.lu_solve(matrix, right)[:free]]


def extrema(coefficients, count, samples=2000):
    """The `count` points of largest error with alternating signs, in order."""
    grid = [EDGE * (2 * mp.mpf(k) / samples - 1) for k in range(samples + 1)]
    values = [error(coefficients, r) for r in grid]
    runs: list[int] = []
    for i, value in enumerate(values):
        if value == 0:
            continue
        if runs and (values[runs[-1]] > 0) == (value > 0):
            if abs(value) > abs(values[runs[-1]]):
                runs[-1] = i
        else:
            runs.append(i)
    while len(runs) > count:
        runs.pop(0 if abs(values[runs[0]]) < abs(values[runs[-1]]) else -1)
    return [grid[i] for i in runs], max(abs(v) for v in values)


def remez(fixed, free, rounds=12):
    """The minimax coefficients, and the largest relative error."""
    points = [EDGE * mp.cos(mp.pi * (2 * k + 1) / (2 * (free + 1))) for k in reversed(range(free + 1))]
    best, least = None, mp.inf
    for _ in range(rounds):
        coefficients = solve(fixed, free, points)
        found, worst = extrema(coefficients, free + 1)
        if worst < least:
            best, least = coefficients, worst
        if len(found) < free + 1:
            break
        points = found
    return best, least


def derive(dtype, terms):
    """q's coefficients, each a number of the dtype, and the largest relative error."""
    fixed = []
    for k in range(terms):
        coefficients, _ = remez(fixed, terms - k)
        fixed.append(mp.mpf(float(round_to(dtype, coefficients[k]))))
    return [float(c) for c in fixed], extrema(fixed, 1)[1]


def round_to(dtype, value):
    """The nearest number of the dtype (through double: the error of rounding twice is 2⁻⁵³ of an ulp)."""
    return dtype(float(value))


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for dtype, bits, goal in ((np.float32, 15, -27), (np.float64, 42, -57)):
        terms = 3
        while True:
            q, worst = derive(dtype, terms)
            if worst < mp.mpf(2) ** goal:
                break
            terms += 1
        high = mp.nint(mp.log(2) * 2**bits) / mp.mpf(2) ** bits  # n * high is exact for every exponent n
        low = mp.log(2) - high
        print(f"{dtype.__name__}: relative error 2^{float(mp.log(worst, 2)):.1f}, {terms} coefficients")
        print(f"  log2_e {float(round_to(dtype, 1 / mp.log(2)))!r}")
        print(f"  ln2_high {float(high)!r}  ln2_low {float(round_to(dtype, low))!r}")
        print(f"  q {tuple(q)!r}")


if __name__ == "__main__":
    main()
