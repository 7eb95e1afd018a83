"""Derive the tables of fastrnn/cpu/tables.py.

    tanh(k h + d) ~ c0 + c1 d + ... + c6 d⁶     |d| <= h / 2, k = 0..31
    2^(j / 16), j = 0..15, and what of it its rounding loses     eʳ - 1 ~ r + r² (e0 + e1 r)     |r| <= ln 2 / 32

c0 is tanh(k h) itself; the others interpolate (tanh(k h + d) - tanh(k h)) / d at the Chebyshev nodes, which is within a few
per cent of the best there is. In the first interval c0 = 0 and c1 = 1, so that small numbers keep their last digit. The
spacing h has few bits, and tanh(h) is nearly a float32: results of the second interval are smaller than its c0.
Needs mpmath and numpy; prints the tables.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 50
SPACING, DEGREE = mp.mpf(1212) / 4096, 6


def interpolate(function, low, high, degree):
    """Coefficients of the polynomial through the function's values at the Chebyshev nodes of an interval."""
    angles = [mp.pi * (k + mp.mpf(0.5)) / (degree + 1) for k in range(degree + 1)]
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(angle) for angle in angles]
    matrix = mp.matrix([[x**j for j in range(degree + 1)] for x in nodes])
    return list(mp.lu_solve(matrix, mp.matrix([function(x) for x in nodes])))


def tanh_row(k):
    edge = SPACING / 2 * mp.mpf("1.0005")  # a little wider: d is rounded
    if k == 0:
        return [0, 1, *interpolate(lambda d: (mp.tanh(d) / d - 1) / d, mp.mpf(0), edge, DEGREE - 2)]
    middle = mp.tanh(k * SPACING)
    return [middle, *interpolate(lambda d: (mp.tanh(k * SPACING + d) - middle) / d, -edge, edge, DEGREE - 1)]


def show(name, values):
    print(f"{name} = (")
    for start in range(0, len(values), 6):
        print("    " + " ".join(f"{np.float32(float(v))!s}," for v in values[start : start + 6]))
    print(")")


if __name__ == "__main__":
    print(f"SPACING = {float(SPACING)!r}")
    rows = [tanh_row(k) for k in range(32)]
    for j in range(DEGREE + 1):
        show(f"C{j}", [row[j] for row in rows])
    roots = [mp.mpf(2) ** (mp.mpf(j) / 16) for j in range(16)]
    show("ROOTS", roots)
    show("ROOTS_LOST", [root / mp.mpf(float(np.float32(float(root)))) - 1 for root in roots])
    edge = mp.log(2) / 32 * mp.mpf("1.001")
    show("EXPONENTIAL", interpolate(lambda r: (mp.expm1(r) - r) / r**2, -edge, edge, 1))
