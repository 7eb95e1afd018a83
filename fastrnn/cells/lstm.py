"""LSTM.  i, f, o = σ(x + u)   g = tanh(x + u)   c' = f c + i g   h' = o tanh(c')

Hochreiter and Schmidhuber, Long short-term memory (1997), with the forget gate of Gers et al. (2000).
"""

from fastrnn.cell import Cell
from fastrnn.pointwise import sigmoid, tanh


def forward(x, u, c):
    i, f = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
    g, o = tanh(x[2] + u[2]), sigmoid(x[3] + u[3])
    c = f * c + i * g
    t = tanh(c)
    return o * t, c, (i, f, g, o, t)


def backward(dh, dc, c_prev, tape):
    i, f, g, o, t = tape
    dt = dh * o
    dc = dc + (dt - dt * t * t)
    di, df, dg, do = dc * g, dc * c_prev, dc * i, dh * t
    da = (di * (i - i * i), df * (f - f * f), dg - dg * g * g, do * (o - o * o))
    return da, da, dc * f


LSTM = Cell("lstm", gates="ifgo", memory=True, forward=forward, backward=backward)
