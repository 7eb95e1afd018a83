"""The implementations that are timed: each a function (workload, threads) -> a call without arguments.

The call returns (y,) for inference, (y, dx, dw_hh) for training, (y_t,) for a step, as its own kind of array, so that the
same call is checked against the reference in double precision and then timed. Weights are the workload's own.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from fastrnn.bench import on_device
from fastrnn.bench.workloads import Workload

Call = Callable[[], tuple[Any, ...]]
TOLERANCE = {
    "float32": 1e-4,
    "float64": 1e-10,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}  # relative to the largest number of each answer


class Unsupported(Exception):
    """What an implementation does not do."""


def of_fastrnn(w: Workload, threads: int, frozen: bool = False) -> Call:
    import fastrnn as fr

    fr.set_num_threads(threads)
    layer = getattr(fr, w.cell.upper())(w.I, w.H, dtype=w.dtype, rng=0)
    layer.load_state_dict(dict(zip(layer.params, w.weights(), strict=True)))
    x, dy = w.x(), w.dy()
    if w.work == "training":

        def training():
            _ = layer.params  # as an optimizer does, who changes them: they are packed anew
            (y, _), tape = layer.forward(x)
            g = layer.backward(tape, dy)
            return y, g.x, g.params["weight_hh_l0"]

        return training
    if w.work == "step":
        stream, x_t, out = layer.stream(w.N), x[0], np.empty((w.N, w.H), w.dtype)
        return lambda: (stream.step(x_t, out),)
    call = layer.freeze() if frozen else layer
    return lambda: (call(x)[0],)


def of_frozen(w: Workload, threads: int) -> Call:
    if w.work != "inference":
        raise Unsupported(f"frozen layers have no {w.work}")
    return of_fastrnn(w, threads, frozen=True)


def of_reference(w: Workload, threads: int, dtype: Any = None) -> Call:
    """dtype : to compute in; the workload's own by default."""
    from fastrnn import reference
    from fastrnn.cells import REGISTRY
    from fastrnn.contract import Weights

    cell = REGISTRY[{"rnn": "rnn_tanh"}.get(w.cell, w.cell)]
    x, dy, *values = (a.astype(dtype or w.dtype) for a in (w.x(), w.dy(), *w.weights()))
    weights, state = Weights(*values), [None, None]

    def step():
        _, *state[:], _ = reference.forward(cell, weights, x, *state)
        return (state[0],)

    def training():
        y, _, _, tape = reference.forward(cell, weights, x, keep=True)
        g = reference.backward(cell, tape, dy)
        return y, g.x, g.w_hh

    return {"inference": lambda: reference.forward(cell, weights, x)[:1], "training": training, "step": step}[w.work]


def of_torch(w: Workload, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    layer = getattr(torch.nn, w.cell.upper())(w.I, w.H, dtype=getattr(torch, w.dtype))
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), w.weights(), strict=True):
            parameter.copy_(torch.from_numpy(value))
    x, dy = torch.from_numpy(w.x()), torch.from_numpy(w.dy())
    if w.work == "training":
        x.requires_grad_(True)

        def training():
            layer.zero_grad()
            x.grad = None
            y = layer(x)[0]
            y.backward(dy)
            return y.detach(), x.grad, layer.weight_hh_l0.grad

        return training
    state: list[Any] = [None]

    def step():
        with torch.inference_mode():
            y, state[0] = layer(x, state[0])
            return (y[0],)

    def inference():
        with torch.inference_mode():
            return (layer(x)[0],)

    return step if w.work == "step" else inference


def of_onnxruntime(w: Workload, threads: int) -> Call:
    import onnxruntime as ort

    if w.work == "training":
        raise Unsupported("onnxruntime has no backward")
    if w.dtype == "float64":
        raise Unsupported("onnxruntime's recurrent operators are not made for double precision")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = ort.InferenceSession(_onnx_model(w), options, providers=["CPUExecutionProvider"])
    x, zero = w.x(), np.zeros((1, w.N, w.H), w.dtype)
    names = [one.name for one in session.get_inputs()[1:]]
    if w.work == "inference":
        feed = {"x": x} | dict.fromkeys(names, zero)
        return lambda: (session.run(["y"], feed)[0][:, 0],)
    state = [zero] * len(names)

    def step():
        nonlocal state
        y, *state = session.run(None, {"x": x} | dict(zip(names, state, strict=True)))
        return (y[0, 0],)

    return step


def _onnx_model(w: Workload) -> bytes:
    """A model of one node. ONNX orders the gates i o f c (LSTM) and z r h (GRU)."""
    from onnx import TensorProto, helper, numpy_helper

    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}[w.cell]
    kind = TensorProto.FLOAT if w.dtype == "float32" else TensorProto.DOUBLE
    ordered = [np.concatenate([np.split(value, len(order))[g] for g in order]) for value in w.weights()]
    constants = {"W": ordered[0], "R": ordered[1], "B": np.concatenate(ordered[2:])}
    states = ("h0", "c0") if w.cell == "lstm" else ("h0",)
    attributes = {"linear_before_reset": 1} if w.cell == "gru" else {}
    outputs = ["y", *(f"{name[0]}_n" for name in states)]
    node = helper.make_node(
        w.cell.upper(), ["x", "W", "R", "B", "", *states], outputs, hidden_size=w.H, **attributes
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", kind, (w.T, w.N, w.I))]
    inputs += [helper.make_tensor_value_info(name, kind, (1, w.N, w.H)) for name in states]
    results = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    weights = [numpy_helper.from_array(value[None], name) for name, value in constants.items()]
    graph = helper.make_graph([node], "layer", inputs, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def of_jax(w: Workload, threads: int) -> Call:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", w.dtype == "float64")
    x, dy, weights = jnp.asarray(w.x()), jnp.asarray(w.dy()), [jnp.asarray(a) for a in w.weights()]
    sigmoid, tanh, G = jax.nn.sigmoid, jnp.tanh, len(w.weights()[2]) // w.H

    def cell(state, a, w_hh, b_hh):
        h, c = state
        u = jnp.split(h @ w_hh.T + b_hh, G, axis=1)
        if w.cell == "lstm":
            i, f, g, o = (p + q for p, q in zip(a, u, strict=True))
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            return sigmoid(o) * tanh(c), c
        if w.cell == "gru":
            r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
            n = tanh(a[2] + r * u[2])
            return n + z * (h - n), c
        return tanh(a[0] + u[0]), c

    def run(x, state, w_ih, w_hh, b_ih, b_hh):
        gates = jnp.split(x @ w_ih.T + b_ih, G, axis=2)

        def step(state, a):
            state = cell(state, a, w_hh, b_hh)
            return state, state[0]

        return jax.lax.scan(step, state, gates)

    zero = jnp.zeros((w.N, w.H), x.dtype)
    state = [(zero, zero)]
    forward = jax.jit(run)

    def loss(x, w_ih, w_hh, b_ih, b_hh):
        y = run(x, state[0], w_ih, w_hh, b_ih, b_hh)[1]
        return jnp.vdot(y, dy), y

    both = jax.jit(jax.value_and_grad(loss, argnums=range(5), has_aux=True))

    def training():
        (_, y), grads = both(x, *weights)
        return jax.block_until_ready((y, grads[0], grads[2]))

    def step():
        state[0], y = forward(x, state[0], *weights)
        return (jax.block_until_ready(y)[0],)

    inference = lambda: (jax.block_until_ready(forward(x, state[0], *weights)[1]),)  # noqa: E731
    return {"inference": inference, "training": training, "step": step}[w.work]


class Implementation(NamedTuple):
    make: Callable[[Workload, int], Call]
    modules: tuple[str, ...] = ()  # that must be installed
    environment: Callable[[int], dict[str, str]] = lambda threads: {}  # set before the process starts


def _of_blas(threads: int) -> dict[str, str]:
    return {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "MKL", "OMP")}


def _of_xla(threads: int) -> dict[str, str]:
    multi = "true" if threads > 1 else "false"
    return {"XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={multi}", "JAX_PLATFORMS": "cpu", "NPROC": str(threads)}


IMPLEMENTATIONS = {
    "fastrnn": Implementation(of_fastrnn),
    "frozen": Implementation(of_frozen),
    "reference": Implementation(of_reference, environment=_of_blas),
    "torch": Implementation(of_torch, ("torch",)),
    "onnxruntime": Implementation(of_onnxruntime, ("onnxruntime", "onnx")),
    "jax": Implementation(of_jax, ("jax",), _of_xla),
}


DEVICE_IMPLEMENTATIONS = {
    "fastrnn": Implementation(on_device.of_fastrnn, ("numba_cuda",)),
    "torch": Implementation(on_device.of_torch, ("torch",)),
}
TABLES = {"cpu": IMPLEMENTATIONS, "cuda": DEVICE_IMPLEMENTATIONS}


def missing(name: str) -> list[str]:
    """The modules that an implementation needs and that are not installed."""
    return [module for module in IMPLEMENTATIONS[name].modules if find_spec(module) is None]


def check(name: str, w: Workload, threads: int = 1, device: str = "cpu") -> float:
    """The largest error of an implementation on the first steps of a workload, against the reference in double precision.

    Raises ArithmeticError where it is more than the dtype's tolerance.
    """
    brief = w.brief()
    got, want = TABLES[device][name].make(brief, threads)(), of_reference(brief, threads, np.float64)()
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        error = float(np.abs(on_device.to_host(a) - b).max() / max(np.abs(b).max(), 1e-30))
        worst = max(worst, error) if error == error else np.inf
    if not worst < TOLERANCE[w.dtype]:
        raise ArithmeticError(f"{name}, {brief}: off by {worst:.1e} of the largest number, wanted {TOLERANCE[w.dtype]:.0e}")
    return worst
