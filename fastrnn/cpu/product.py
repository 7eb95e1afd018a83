"""Products of matrices as work: how they are cut, by how many threads, in whose memory."""

from functools import lru_cache

from fastrnn.cpu import compiled, gemm
from fastrnn.cpu.lending import Plan, Work
from fastrnn.cpu.memory import Block, Layout
from fastrnn.cpu.target import ITEMSIZE, lanes
from fastrnn.cpu.team import Team, steps_a_call, threads_of_product
from fastrnn.cpu.threads import get_num_threads, launch


def depth_of_columns(I: int) -> int:
    """How many terms of a sum a product with I columns takes in a row: a block of B stays in the second cache."""
    return max(128, min(512, (1 << 17) // max(1, I)))


class Product:
    """C (M, N) = A B over K in blocks of `depth`.

    steps : numbers from a row of A to the next, from a column of A, from a row of B
    loop : the team of the loop before it
    chunk : how many terms of A's sums over K, where they are wanted, are summed in a row; the first step is 1 then
    """

    def __init__(
        self, dtype: str, shape: tuple[int, int, int], steps: tuple[int, int, int], depth: int, loop: Team, chunk: int = 0
    ):
        (M, N, K), (a_m, a_k, b_k) = shape, steps
        self.team = threads_of_product(2.0 * M * N * K, loop)
        depth = max(1, min(depth, K))
        self.work_size = gemm.work_size(N, depth, dtype)
        self.rows = steps_a_call(2.0 * N * K, 8)  # of C
        self.M, item = M if K and (N or chunk) else 0, ITEMSIZE[dtype]
        self._steps = a_m * item, N * item, item  # bytes from a row of A, of C, of the sums to the next
        self.task = compiled.task(
            "gemm", "", dtype, gemm.GEMM, M=min(self.rows, self.M), N=N, K=K, a_m=a_m, a_k=a_k, b_k=b_k, c_m=N, depth=depth,
            chunk=chunk, work_size=self.work_size,
        )  # fmt: skip

    @property
    def brief(self) -> bool:
        """Whether one kernel call does all."""
        return self.rows >= self.M

    def run(self) -> None:
        """Fill C and the sums, of which the task has been told where they go: a bounded time a kernel call."""
        task, (a_step, c_step, sums_step) = self.task, self._steps
        if self.brief:
            if self.M > 0:
                launch(task.address, task.words, self.team)
            return
        a, c, sums, rows = (task.get(word) for word in ("a", "c", "sums", "M"))
        for m in range(0, self.M, rows):
            task.set(a=a + m * a_step, c=c + m * c_step, sums=sums + m * sums_step, M=min(rows, self.M - m))
            launch(task.address, task.words, self.team)
        task.set(a=a, c=c, sums=sums, M=rows)


class Alone(Work):
    """The work of a product that follows no loop."""

    def __init__(self, dtype: str, shape: tuple[int, int, int], steps: tuple[int, int, int], depth: int, chunk: int):
        # what it reads lies in the caches of every thread
        self.product = product = Product(dtype, shape, steps, depth, Team(get_num_threads(), False), chunk)
        super().__init__(Layout({
            "work": ((product.team * product.work_size,), dtype), "offsets": ((product.team * 8,), "intp"),
            "zero": ((4 * lanes(dtype),), dtype),
        }))  # fmt: skip
        self.wake()

    def bind(self, block: Block) -> None:
        block["zero"][...] = 0
        self.product.task.set(**{piece: block.at(piece) for piece in ("zero", "work", "offsets")})


@lru_cache(64)
def product_plan(
    dtype: str, shape: tuple[int, int, int], steps: tuple[int, int, int], depth: int, chunk: int, threads: int
) -> Plan[Alone]:
    """The plan of a product; arguments as of Product."""
    return Plan(lambda: Alone(dtype, shape, steps, depth, chunk))
