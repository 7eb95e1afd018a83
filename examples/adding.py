"""The same training on a CPU and on a GPU: only the line that imports the arrays differs.

    python examples/adding.py                   numpy: on the CPU
    python examples/adding.py --arrays cupy     on the GPU (pip install 'fastrnn[cuda]' cupy-cuda13x)

The adding problem (Hochreiter and Schmidhuber, 1997): of a sequence of random numbers, two are marked; the network says
their sum when it has read them all. Always answering 1 has a mean squared error of 1/6. All but the data is made by `xp`.
"""

import argparse
import time
from importlib import import_module

import numpy as np

import fastrnn as fr


def problems(rng, T, N):
    """x (T, N, 2): numbers and marks; target (N,): the sum of the two marked ones."""
    x = np.zeros((T, N, 2), np.float32)
    x[:, :, 0] = rng.random((T, N))
    first, second = rng.integers(0, T // 2, N), rng.integers(T // 2, T, N)
    x[first, np.arange(N), 1] = x[second, np.arange(N), 1] = 1
    return x, (x[:, :, 0] * x[:, :, 1]).sum(0)


def train(xp, steps, *, T=30, N=64, H=64, rate=5e-3, seed=0, say=print):
    """The mean squared error of each step. xp : numpy, or what stands in for it: the module that arrays are made by"""
    rng = np.random.default_rng(seed)
    layer = fr.GRU(2, H, rng=seed).convert(xp.asarray)
    params = layer.params | {"w": xp.zeros((H,), np.float32), "b": xp.ones((1,), np.float32)}
    means, squares = ({name: xp.zeros_like(p) for name, p in params.items()} for _ in range(2))
    losses, start = [], time.perf_counter()
    for step in range(1, steps + 1):
        x, target = map(xp.asarray, problems(rng, T, N))
        (_, h_n), tape = layer.forward(x)
        error = h_n[0] @ params["w"] + params["b"] - target
        d = error * (2 / N)
        grads = layer.backward(tape, dstate=(d[:, None] * params["w"])[None]).params
        grads |= {"w": d @ h_n[0], "b": d.sum()[None]}
        for name, g in grads.items():  # Adam
            means[name] += (g - means[name]) * 0.1
            squares[name] += (g * g - squares[name]) * 0.001
            mean, square = means[name] / (1 - 0.9**step), squares[name] / (1 - 0.999**step)
            params[name] -= rate * mean / (square**0.5 + 1e-8)
        losses.append((error * error).mean())
        if step % 100 == 0:
            recent = sum(map(float, losses[-100:])) / 100
            say(f"step {step}: error {recent:.4f}, {1e3 * (time.perf_counter() - start) / step:.2f} ms a step")
    return [float(loss) for loss in losses]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", default="numpy", help="the module that arrays come from: numpy, cupy; default: numpy")
    parser.add_argument("--steps", type=int, default=600, help="default: 600")
    options = parser.parse_args()
    try:
        xp = import_module(options.arrays)
    except ImportError as problem:
        parser.error(f"--arrays: {problem}")
    losses = train(xp, options.steps)
    print(f"mean squared error of the last steps: {sum(losses[-50:]) / len(losses[-50:]):.4f} (always answering 1: 0.1667)")


if __name__ == "__main__":
    main()
