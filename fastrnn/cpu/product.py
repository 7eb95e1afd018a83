"""Products of matrices as work: how they are cut, by how many threads, in whose memory."""

from functools import lru_cache

from fastrnn.cpu import compiled, dense, gemm
from fastrnn.cpu.asking import ONE_SIZE
from fastrnn.cpu.kernel import Task
from fastrnn.cpu.lending import Plan, Work
from fastrnn.cpu.memory import Block, Layout, Pieces
from fastrnn.cpu.target import ITEMSIZE, block_depth, lanes, padded, panel_vectors, run_of
from fastrnn.cpu.team import Team, steps_a_call, threads_of_product
from fastrnn.cpu.threads import get_num_threads, launch

_CHUNK = 48  # rows that a linear map takes together: their sums stay in the first cache
_OFFSETS = _CHUNK + ONE_SIZE  # words that each of its threads needs
_SUMMED = 16  # terms of a bias gradient that are summed in a row
_RUN = 128  # terms of a weight's gradient that follows no loop, summed in a row
_NEAR = 1 << 20  # bytes of C that a second-level cache holds beside the rest
_MANY = 1 << 14  # terms: of more, the sums of two runs are added up before they are added to C, which loses less


class Product:
    """A product, C (M, N) over K terms, whose rows are computed some at a time: a bounded time a kernel call."""

    offsets_size: int  # words that a thread needs
    work_size: int  # numbers

    def __init__(self, task: Task, shape: tuple[int, int, int], loop: Team, count: str, steps: dict[str, int]):
        """loop : the team of the loop before it; count : the word that says how many rows there are; steps : bytes from a
        row of C to the next where each of these words points to"""
        M, N, K = shape
        self.task, self.team, self.M = task, threads_of_product(2.0 * M * N * K, loop), M
        self.rows, self._count, self._steps = steps_a_call(2.0 * N * K, 8), count, steps
        task.set(**{count: min(self.rows, M)})

    @property
    def brief(self) -> bool:
        """Whether one kernel call does all."""
        return self.rows >= self.M

    def run(self) -> None:
        """Fill C, and what else the task has been told where it goes."""
        task, team = self.task, self.team
        if self.brief:
            if self.M > 0:
                launch(task.address, task.words, team)
            return
        starts, whole = {word: task.get(word) for word in self._steps}, task.get(self._count)
        for m in range(0, self.M, self.rows):
            places = {word: start + m * self._steps[word] for word, start in starts.items()}
            task.set(**places, **{self._count: min(self.rows, self.M - m)})
            launch(task.address, task.words, team)
        task.set(**starts, **{self._count: whole})


class WeightGradient(Product):
    """C = Aᵀ B: sums over K rows of A (K, M) and of B (K, N), `run` of them in a row from zero.

    a_step, b_step : numbers from a row to the next; summing : whether the sums of A's columns, a bias gradient, are wanted
    """

    offsets_size = 8

    def __init__(
        self, dtype: str, shape: tuple[int, int, int], a_step: int, b_step: int, run: int, loop: Team, summing: bool
    ):
        (M, N, K), item = shape, ITEMSIZE[dtype]
        apart = K > _MANY
        # a C that comes from afar comes once for two runs
        run, depth = max(1, min(run, K)), max(1, min((1 + (apart or M * N * item > _NEAR)) * run, K))
        self.work_size = gemm.work_size(M, N, depth, dtype)
        task = compiled.task(
            "gemm", "", dtype, gemm.GEMM, N=N, K=K, a_k=a_step, b_k=b_step, c_m=N, depth=depth, run=run,
            apart=apart, chunk=_SUMMED * summing, work_size=self.work_size,
        )  # fmt: skip
        super().__init__(task, (M if K and (N or summing) else 0, N, K), loop, "M", {"a": item, "c": N * item, "sums": item})


class InputGradient(Product):
    """C = A B: a linear map of the rows of A (M, K), a_step numbers apart, by B (K, N), which lies in panels."""

    offsets_size = _OFFSETS

    def __init__(self, dtype: str, shape: tuple[int, int, int], a_step: int, loop: Team):
        (M, N, K), item = shape, ITEMSIZE[dtype]
        self.work_size = _sums(dtype)
        task = compiled.task(
            "linear", "", dtype, dense.LINEAR, **linear_words(dtype, K, N), x_n=a_step, out_n=N, together=1
        )  # fmt: skip
        super().__init__(task, (M if N else 0, N, K), loop, "N", {"x": a_step * item, "out": N * item})


def linear_words(dtype: str, I: int, O: int) -> dict[str, int]:
    """The words of a linear map that follow from its sizes."""
    V, W = padded(O, dtype) // lanes(dtype), panel_vectors(1)
    return {"I": I, "O": O, "W": W, "V": V, "x_run": run_of(I, block_depth(1)), "capacity": _CHUNK}


def linear_memory(dtype: str, team: int) -> Pieces:
    """The memory of a linear map's threads."""
    return {"work": ((team * _sums(dtype),), dtype), "offsets": ((team * _OFFSETS,), "intp")}


def _sums(dtype: str) -> int:
    """Numbers that each of them needs: the sums of a chunk's rows for a panel."""
    return _CHUNK * panel_vectors(1) * lanes(dtype)


class Alone(Work):
    """The work of the gradients of a weight and a bias that follow no loop."""

    def __init__(self, dtype: str, shape: tuple[int, int, int], steps: tuple[int, int]):
        # what it reads lies in the caches of every thread
        self.product = product = WeightGradient(dtype, shape, *steps, _RUN, Team(get_num_threads(), False), True)
        super().__init__(Layout({
            "work": ((product.team * product.work_size,), dtype),
            "offsets": ((product.team * product.offsets_size,), "intp"), "zero": ((4 * lanes(dtype),), dtype),
        }))  # fmt: skip
        self.wake()

    def bind(self, block: Block) -> None:
        block["zero"][...] = 0
        self.product.task.set(**{piece: block.at(piece) for piece in ("zero", "work", "offsets")})


@lru_cache(64)
def gradient_plan(dtype: str, shape: tuple[int, int, int], steps: tuple[int, int], threads: int) -> Plan[Alone]:
    """The plan of such gradients; arguments as of WeightGradient."""
    return Plan(lambda: Alone(dtype, shape, steps))
