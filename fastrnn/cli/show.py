"""What a person sees: tables and progress, by rich on a terminal where it is installed, as plain text elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

Advance = Callable[[str], None]


def _rich() -> bool:
    return find_spec("rich") is not None


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A bar with the time left, on stderr where that is a terminal; call what it gives with what comes next."""
    if not sys.stderr.isatty():
        yield lambda text: None
    elif _rich():
        with _bar() as bar:
            task, started = bar.add_task("", total=total), [False]

            def advance(text: str) -> None:
                bar.update(task, advance=int(started[0]), description=text)
                started[0] = True

            yield advance
    else:
        begin, done = time.perf_counter(), [-1]

        def say(text: str) -> None:
            done[0] += 1
            left = (time.perf_counter() - begin) / done[0] * (total - done[0]) if done[0] else 0.0
            time_left = f", about {left:.0f} s left" if done[0] else ""
            print(f"\r{done[0]} of {total}{time_left}: {text}\033[K", end="", file=sys.stderr, flush=True)

        yield say
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column stands to the left, numbers to the right."""
    if sys.stdout.isatty() and _rich():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for k, column in enumerate(columns):
            shown.add_column(column, justify="right" if k else "left", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        Console().print(shown)
        return
    widths = [max(len(text) for text in column) for column in zip(columns, *rows, strict=True)]
    print(title)
    for row in (columns, *rows):
        cells = (
            f"{text:>{width}}" if k else f"{text:<{width}}" for k, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
    print(flush=True)


def say(text: str) -> None:
    """A remark, which is no result: on stderr."""
    print(text, file=sys.stderr, flush=True)


def threads(n: int) -> str:
    return f"{n} thread{'s' if n > 1 else ''}"
