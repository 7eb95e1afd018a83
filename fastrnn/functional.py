"""rnn, gru and lstm as functions of arrays, and their pairs with gradients.

Time first: x (T, N, I), y (T, N, H); parameters have PyTorch's names, shapes and gate order. float32 and float64, the
result in the input's dtype. `lengths` gives each row its own number of steps: each row equals that row run alone.
"""

from dataclasses import dataclass
from typing import Any

from fastrnn.arrays import as_flag
from fastrnn.backend import Place, place_of
from fastrnn.cells import REGISTRY
from fastrnn.contract import Array, Gradients, Weights


@dataclass(frozen=True, eq=False, repr=False)
class Tape:
    """What a `*_forward` call keeps for its `*_backward`; it owns its memory and can be used more than once."""

    cell: str
    shape: tuple[int, int, int]  # T, N, H
    dtype: Any
    place: Place
    kept: Any  # the backend's own

    @property
    def nbytes(self) -> int:
        """Bytes kept for backward."""
        return int(self.kept.nbytes)

    def __repr__(self) -> str:
        return f"<tape of {self.cell}, T, N, H = {self.shape}, {self.dtype}>"


def run(
    name: str, x: Any, weights: tuple[Any, ...], h0: Any, c0: Any, lengths: Any, reverse: bool, keep: bool
) -> tuple[tuple[Array, Array, Array | None], Tape | None]:
    """Check the arguments of one call, and carry it out."""
    cell = REGISTRY[name]
    place = place_of("x", x)
    there, work = place
    x = there.as_array("x", x, ("T", "N", "I"))
    T, N, I = x.shape
    params = check_weights(place, name, weights, I, x.dtype)
    H = params.w_hh.shape[1]
    h0, c0 = there.optional("h0", h0, (N, H), x.dtype), there.optional("c0", c0, (N, H), x.dtype)
    lengths, reverse = there.as_lengths(lengths, N, T), as_flag("reverse", reverse)
    y, h_n, c_n, kept = work.forward(cell, work.prepare(cell, params), x, h0, c0, lengths, reverse, keep)
    return (y, h_n, c_n), Tape(name, (T, N, H), x.dtype, place, kept) if keep else None


def check_weights(
    place: Place, name: str, weights: tuple[Any, ...], I: int, dtype: Any, names: tuple[str, ...] = Weights._fields
) -> Weights:
    """The parameters of one layer and direction, checked against each other and I."""
    (w_ih, w_hh, b_ih, b_hh), there = weights, place.arrays
    G = REGISTRY[name].n_gates
    w_hh = there.from_any(names[1], w_hh)
    shape = tuple(w_hh.shape)
    if len(shape) != 2 or shape[1] == 0 or shape[0] != G * shape[1]:
        there.as_array(names[1], w_hh, ("G*H", "H"), dtype)  # says what else may be wrong
        raise ValueError(f"{names[1]}: got shape {shape}, wanted ({f'{G}*H' if G > 1 else 'H'}, H) with H at least 1")
    rows = shape[0]
    w_hh = there.contiguous(names[1], w_hh, shape, dtype)
    w_ih = there.contiguous(names[0], w_ih, (rows, I), dtype)
    biases = zip(names[2:], (b_ih, b_hh), strict=False)  # a layer without biases has no names for them
    return Weights(w_ih, w_hh, *(None if b is None else there.contiguous(n, b, (rows,), dtype) for n, b in biases))


def run_backward(names: tuple[str, ...], tape: Any, dy: Any, dh_n: Any, dc_n: Any) -> Gradients:
    """Check the arguments of one backward call, and carry it out."""
    if not isinstance(tape, Tape) or tape.cell not in names:
        raise TypeError(f"tape: got {tape!r}, wanted what {names[0].split('_')[0]}_forward gave")
    T, N, H = tape.shape
    there, work = tape.place
    dy = there.optional("dy", dy, (T, N, H), tape.dtype)
    dh_n, dc_n = there.optional("dh_n", dh_n, (N, H), tape.dtype), there.optional("dc_n", dc_n, (N, H), tape.dtype)
    return work.backward(REGISTRY[tape.cell], tape.kept, dy, dh_n, dc_n)


def _rnn_cell(nonlinearity: Any) -> str:
    name = f"rnn_{nonlinearity}"
    if name not in REGISTRY:
        raise ValueError(f"nonlinearity: got {nonlinearity!r}, wanted 'tanh' or 'relu'")
    return name


def rnn(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, nonlinearity="tanh", lengths=None, reverse=False):
    """Elman RNN over a sequence: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu.

    Elman, Finding structure in time (1990).

    x : (T, N, I) input, float32 or float64
    w_ih : (H, I), w_hh : (H, H) weights; b_ih, b_hh : (H,) biases, none by default
    h0 : (N, H) state before the first step, zero by default
    nonlinearity : "tanh" or "relu"
    lengths : (N,) steps of each row, 0 to T; y is zero past a row's end and h_n its state there
    reverse : run each row from its end to its start

    Returns y (T, N, H), h_n (N, H). Raises ValueError or TypeError for an argument of the wrong shape or dtype.

    >>> import numpy as np, fastrnn as fr
    >>> y, h_n = fr.rnn(np.ones((5, 2, 3)), np.ones((4, 3)), np.zeros((4, 4)))
    >>> y.shape, h_n.shape, float(y[0, 0, 0].round(6))
    ((5, 2, 4), (2, 4), 0.995055)
    """
    weights = (w_ih, w_hh, b_ih, b_hh)
    return run(_rnn_cell(nonlinearity), x, weights, h0, None, lengths, reverse, False)[0][:2]


def rnn_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, nonlinearity="tanh", lengths=None, reverse=False):
    """`rnn`, keeping what backward needs. Returns (y, h_n), tape; arguments and errors as of `rnn`.

    >>> import numpy as np, fastrnn as fr
    >>> (y, h_n), tape = fr.rnn_forward(np.ones((5, 2, 3)), np.ones((4, 3)), np.zeros((4, 4)))
    >>> fr.rnn_backward(tape, dy=np.ones_like(y)).w_ih.shape
    (4, 3)
    """
    weights = (w_ih, w_hh, b_ih, b_hh)
    out, tape = run(_rnn_cell(nonlinearity), x, weights, h0, None, lengths, reverse, True)
    return out[:2], tape


def rnn_backward(tape, dy=None, dh_n=None):
    """Gradients of a scalar through `rnn_forward`.

    dy : (T, N, H), dh_n : (N, H) the scalar's gradients of y and h_n; zero where missing
    Returns an object with x, w_ih, w_hh, b_ih, b_hh, h0, each of its argument's shape.

    >>> import numpy as np, fastrnn as fr
    >>> (y, h_n), tape = fr.rnn_forward(np.ones((5, 2, 3)), np.ones((4, 3)), np.zeros((4, 4)))
    >>> fr.rnn_backward(tape, dh_n=np.ones_like(h_n)).x.shape
    (5, 2, 3)
    """
    return run_backward(("rnn_tanh", "rnn_relu"), tape, dy, dh_n, None)


def gru(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, lengths=None, reverse=False):
    """GRU over a sequence, reset after the product: with a = W_ih x_t + b_ih and u = W_hh h_{t-1} + b_hh,

        r, z = σ(a + u)    n = tanh(a_n + r u_n)    h_t = n + z (h_{t-1} - n)

    Cho et al., Learning phrase representations using RNN encoder-decoder (2014), in the variant of cuDNN and PyTorch.

    x : (T, N, I) input, float32 or float64
    w_ih : (3H, I), w_hh : (3H, H) weights in the order r, z, n; b_ih, b_hh : (3H,) biases, none by default
    h0 : (N, H) state before the first step, zero by default
    lengths : (N,) steps of each row, 0 to T; y is zero past a row's end and h_n its state there
    reverse : run each row from its end to its start

    Returns y (T, N, H), h_n (N, H). Raises ValueError or TypeError for an argument of the wrong shape or dtype.

    >>> import numpy as np, fastrnn as fr
    >>> y, h_n = fr.gru(np.ones((5, 2, 3)), np.zeros((12, 3)), np.zeros((12, 4)), h0=np.ones((2, 4)))
    >>> h_n[0, 0].item()
    0.03125
    """
    return run("gru", x, (w_ih, w_hh, b_ih, b_hh), h0, None, lengths, reverse, False)[0][:2]


def gru_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, lengths=None, reverse=False):
    """`gru`, keeping what backward needs. Returns (y, h_n), tape; arguments and errors as of `gru`.

    >>> import numpy as np, fastrnn as fr
    >>> (y, h_n), tape = fr.gru_forward(np.ones((5, 2, 3)), np.ones((12, 3)), np.zeros((12, 4)))
    >>> fr.gru_backward(tape, dy=np.ones_like(y)).w_hh.shape
    (12, 4)
    """
    out, tape = run("gru", x, (w_ih, w_hh, b_ih, b_hh), h0, None, lengths, reverse, True)
    return out[:2], tape


def gru_backward(tape, dy=None, dh_n=None):
    """Gradients of a scalar through `gru_forward`; arguments and result as of `rnn_backward`.

    >>> import numpy as np, fastrnn as fr
    >>> (y, h_n), tape = fr.gru_forward(np.ones((5, 2, 3)), np.ones((12, 3)), np.zeros((12, 4)))
    >>> fr.gru_backward(tape, dh_n=np.ones_like(h_n)).h0.shape
    (2, 4)
    """
    return run_backward(("gru",), tape, dy, dh_n, None)


def lstm(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, c0=None, *, lengths=None, reverse=False):
    """LSTM over a sequence: with a = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh,

        i, f, o = σ(a)    g = tanh(a)    c_t = f c_{t-1} + i g    h_t = o tanh(c_t)

    Hochreiter and Schmidhuber, Long short-term memory (1997), with the forget gate of Gers et al. (2000).

    x : (T, N, I) input, float32 or float64
    w_ih : (4H, I), w_hh : (4H, H) weights in the order i, f, g, o; b_ih, b_hh : (4H,) biases, none by default
    h0, c0 : (N, H) state before the first step, zero by default
    lengths : (N,) steps of each row, 0 to T; y is zero past a row's end, h_n and c_n its state there
    reverse : run each row from its end to its start

    Returns y (T, N, H), h_n (N, H), c_n (N, H). Raises ValueError or TypeError for an argument of the wrong shape or dtype.

    >>> import numpy as np, fastrnn as fr
    >>> y, h_n, c_n = fr.lstm(np.ones((5, 2, 3)), np.zeros((16, 3)), np.zeros((16, 4)), c0=np.ones((2, 4)))
    >>> c_n[0, 0].item(), y.shape
    (0.03125, (5, 2, 4))
    """
    return run("lstm", x, (w_ih, w_hh, b_ih, b_hh), h0, c0, lengths, reverse, False)[0]


def lstm_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, c0=None, *, lengths=None, reverse=False):
    """`lstm`, keeping what backward needs. Returns (y, h_n, c_n), tape; arguments and errors as of `lstm`.

    >>> import numpy as np, fastrnn as fr
    >>> (y, h_n, c_n), tape = fr.lstm_forward(np.ones((5, 2, 3)), np.ones((16, 3)), np.zeros((16, 4)))
    >>> fr.lstm_backward(tape, dy=np.ones_like(y)).b_ih is None
    True
    """
    return run("lstm", x, (w_ih, w_hh, b_ih, b_hh), h0, c0, lengths, reverse, True)


def lstm_backward(tape, dy=None, dh_n=None, dc_n=None):
    """Gradients of a scalar through `lstm_forward`; as `rnn_backward`, with dc_n : (N, H) and c0 among the results.

    >>> import numpy as np, fastrnn as fr
    >>> (y, h_n, c_n), tape = fr.lstm_forward(np.ones((5, 2, 3)), np.ones((16, 3)), np.zeros((16, 4)))
    >>> fr.lstm_backward(tape, dc_n=np.ones_like(c_n)).c0.shape
    (2, 4)
    """
    return run_backward(("lstm",), tape, dy, dh_n, dc_n)
