"""Elman RNN.  h' = tanh(x + u)  or  h' = relu(x + u)

Elman, Finding structure in time (1990); x and u are the input's and the recurrent pre-activation.
"""

from fastrnn.cell import Cell
from fastrnn.pointwise import relu, relu_gradient, tanh


def forward_tanh(x, u, h):
    h = tanh(x[0] + u[0])
    return h, h, (h,)


def backward_tanh(dh, dc, h_prev, tape):
    (h,) = tape
    dh = dh + dc
    da = (dh - dh * h * h,)
    return da, da, 0  # no direct path from h to h'


def forward_relu(x, u, h):
    h = relu(x[0] + u[0])
    return h, h, (h,)


def backward_relu(dh, dc, h_prev, tape):
    (h,) = tape
    dh = dh + dc
    da = (relu_gradient(dh, h),)
    return da, da, 0


RNN_TANH = Cell("rnn_tanh", gates="h", memory=False, forward=forward_tanh, backward=backward_tanh)
RNN_RELU = Cell("rnn_relu", gates="h", memory=False, forward=forward_relu, backward=backward_relu)
