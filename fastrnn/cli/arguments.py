"""Arguments of the commands, checked before anything is measured."""

import argparse
from pathlib import Path

from fastrnn.bench.implementations import IMPLEMENTATIONS, missing
from fastrnn.cpu.threads import num_threads


def size(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number from 1")
    return int(text)


def sizes(text: str) -> list[int]:
    """1,8,32, or 16:4096 for powers of two from 16."""
    first, colon, last = text.partition(":")
    try:
        values = [int(n) for n in ([first, last] if colon else text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted numbers such as 1,8,32 or 16:4096") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted numbers from 1")
    if not colon:
        return list(dict.fromkeys(values))
    low, high = values
    if high < low:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted the smaller number first")
    return [low << k for k in range((high // low).bit_length())]


def threads(text: str) -> list[int]:
    """Numbers of threads that fastrnn may use here."""
    found = sizes(text)
    for n in found:
        try:
            with num_threads(n):
                pass
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None
    return found


def chosen(known: tuple[str, ...], what: str):
    """A list of names out of `known`, or all."""

    def parse(text: str) -> list[str]:
        names = list(known) if text == "all" else list(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"got {what} {name!r}, wanted some of {','.join(known)}, or all")
        return names

    return parse


def peers(text: str) -> list[str]:
    """Implementations beside fastrnn, all of them installed; "none" for none."""
    if text == "none":
        return []
    names = chosen(tuple(name for name in IMPLEMENTATIONS if name != "fastrnn"), "implementation")(text)
    if text == "all":
        return [name for name in names if not missing(name)]
    for name in names:
        if missing(name):
            raise argparse.ArgumentTypeError(f"{name} is not installed: pip install {' '.join(missing(name))}")
    return names


def output(text: str) -> Path:
    """A file that can be written."""
    path = Path(text)
    there = path.exists()
    try:
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as problem:
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: {problem.strerror}") from None
    return path


def picture(text: str) -> Path:
    """A file that a plot is written to."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise argparse.ArgumentTypeError("plots need matplotlib: pip install 'fastrnn[plot]'") from None
    if Path(text).suffix.lower() not in (".png", ".svg", ".pdf", ".html", ".htm"):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a name that ends in .png, .svg, .pdf or .html")
    return output(text)
