"""The parts of a model that are no recurrence: a table of embeddings, a linear map. Each has params, a call, and a pair
of forward and backward."""

from typing import Any

import numpy as np

from fastrnn.arrays import as_array, as_dtype, as_flag, as_size, check_tokens, from_any
from fastrnn.backend import operations
from fastrnn.contract import Array
from fastrnn.parameters import Parameterised


def as_tokens(name: str, value: Any, size: int, shape: tuple[int | str, ...] = ("T", "N")) -> Array:
    """`value` as integers from 0 to size - 1, of that many axes, contiguous."""
    array = from_any(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted integers")
    if array.ndim != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name}: got shape {array.shape}, wanted ({', '.join(map(str, shape))})")
    check_tokens(name, array, size)
    return np.asarray(array, np.intp, order="C")


def until(tokens: Array, pad: int) -> Array:
    """How many tokens of each column of (T, N) stand before the first `pad`."""
    ended = np.concatenate([tokens == pad, np.ones((1, tokens.shape[1]), bool)])
    return ended.argmax(0)


def every(array: Array, T: int) -> Array:
    """The same array in each of T steps."""
    return np.lib.stride_tricks.as_strided(array, (T, *array.shape), (0, *array.strides))


def rows_of(array: Array) -> Array:
    """(T, N, ...) as one step of T N rows."""
    return array.reshape(1, -1, *array.shape[2:])


class Embedding(Parameterised):
    """A table of vectors, one for each token: x = W[token]. `torch.nn.Embedding` for NumPy.

    num_tokens, size : V and E; padding : a token whose vector is zero and stays so
    dtype : float32 or float64; rng : a seed or Generator for N(0, 1) weights

    >>> import numpy as np, fastrnn as fr
    >>> table = fr.Embedding(5, 3, rng=0)
    >>> table(np.array([[0, 4], [1, 1]])).shape
    (2, 2, 3)
    """

    def __init__(self, num_tokens, size, padding=None, *, dtype=np.float32, rng=None):
        self.num_tokens, self.size = as_size("num_tokens", num_tokens), as_size("size", size)
        self.padding = None if padding is None else int(as_tokens("padding", padding, self.num_tokens, ()))
        self.dtype = as_dtype("dtype", dtype)
        weight = np.random.default_rng(rng).normal(0, 1, (self.num_tokens, self.size)).astype(self.dtype)
        if self.padding is not None:
            weight[self.padding] = 0
        self.params = {"weight": weight}

    def __call__(self, tokens):
        """tokens (T, N) integers -> (T, N, E)"""
        return self.table()[as_tokens("tokens", tokens, self.num_tokens)]

    def table(self) -> Array:
        return as_array("weight", self.params["weight"], (self.num_tokens, self.size), self.dtype)

    def backward(self, tokens, dy):
        """The gradient of the table, {"weight": (V, E)}, from dy (T, N, E)."""
        tokens = as_tokens("tokens", tokens, self.num_tokens)
        dy = as_array("dy", dy, (*tokens.shape, self.size), self.dtype)
        work = operations()
        into = work.zeros(self.table().shape, self.dtype)
        work.scatter(dy.reshape(-1, self.size), tokens.reshape(-1), into)
        if self.padding is not None:
            into[self.padding] = 0
        return {"weight": into}


def embedding_of(given: Any, num_tokens: int, size: int, dtype: Any, rng: Any) -> Embedding:
    """The table that was given to be shared, checked, or a new one."""
    if given is None:
        return Embedding(num_tokens, size, dtype=dtype, rng=rng)
    if not isinstance(given, Embedding):
        raise TypeError(f"embedding: got {type(given).__name__}, wanted an Embedding")
    got, wanted = (given.num_tokens, given.size, given.dtype), (num_tokens, size, np.dtype(dtype))
    if got != wanted:
        raise ValueError(f"embedding: got tokens, size, dtype {got}, wanted {wanted}")
    return given


class Linear(Parameterised):
    """y = W x + b on the last axis. `torch.nn.Linear` for NumPy.

    in_size, out_size : of x and y; bias : False for none
    """

    def __init__(self, in_size, out_size, bias=True, *, dtype=np.float32, rng=None):
        self.in_size, self.out_size = as_size("in_size", in_size), as_size("out_size", out_size)
        self.bias, self.dtype = as_flag("bias", bias), as_dtype("dtype", dtype)
        rng, bound = np.random.default_rng(rng), self.in_size**-0.5
        shapes = {"weight": (self.out_size, self.in_size)} | ({"bias": (self.out_size,)} if self.bias else {})
        self.params = {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()}
        self._weights = self.params

    def share(self, params: dict[str, Array]) -> None:
        """Have the "weight" of `params` instead of one of its own."""
        self._weights = params
        self.params = {name: value for name, value in self.params.items() if name != "weight"}

    def arrays(self) -> tuple[Array, Array | None]:
        w = as_array("weight", self._weights["weight"], (self.out_size, self.in_size), self.dtype)
        return w, as_array("bias", self.params["bias"], (self.out_size,), self.dtype) if self.bias else None

    def __call__(self, x, activation="none"):
        """x (T, N, in_size) -> (T, N, out_size)"""
        x = as_array("x", x, ("T", "N", self.in_size), self.dtype)
        out = np.empty((*x.shape[:2], self.out_size), self.dtype)
        linear_of_rows(x, operations().pack(*self.arrays()), out, activation)
        return out

    def backward(self, x, dy, w=None):
        """dx, {"weight": dW, "bias": db} from a call's x, the gradient of its result, and w, its weights if not today's."""
        work, rows = operations(), dy.reshape(-1, self.out_size)
        dw, db = work.weight_gradients(rows, x.reshape(-1, self.in_size))
        dx = work.input_gradient(rows, self.arrays()[0] if w is None else w)
        return dx.reshape(x.shape), {"weight": dw} | ({"bias": db} if self.bias else {})


def map_of_rows(x: Array, weight: Any, out: Array, activation: str = "none") -> Any:
    """A program: out = f(x Wᵀ + b) for every row of x (T, N, I) at once; the weight packed."""
    work, flops = operations(), 2.0 * x.size * out.shape[-1]
    step = work.linear(rows_of(x), weight, rows_of(out), activation)
    return work.Program([step], range(1), rows=x.shape[0] * x.shape[1], flops=flops)


def linear_of_rows(x: Array, weight: Any, out: Array, activation: str = "none") -> None:
    """out = f(x Wᵀ + b) for every row of x (T, N, I), now."""
    map_of_rows(x, weight, out, activation).run()
