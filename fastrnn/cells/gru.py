"""GRU, reset after the product.  r, z = σ(x + u)   n = tanh(x_n + r u_n)   h' = n + z (h - n)

Cho et al., Learning phrase representations using RNN encoder-decoder (2014); the variant of cuDNN and PyTorch.
"""

from fastrnn.cell import Cell
from fastrnn.pointwise import sigmoid, tanh


def forward(x, u, h):
    r, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
    n = tanh(x[2] + r * u[2])
    h = n + z * (h - n)
    return h, h, (r, z, n, u[2])


def backward(dh, dc, h_prev, tape):
    r, z, n, u_n = tape
    dh = dh + dc
    dn = dh - dh * z
    da_n = dn - dn * n * n
    da_r = da_n * u_n * (r - r * r)
    da_z = dh * (h_prev - n) * (z - z * z)
    return (da_r, da_z, da_n), (da_r, da_z, da_n * r), dh * z


GRU = Cell("gru", gates="rzn", memory=False, forward=forward, backward=backward)
