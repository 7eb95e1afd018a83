"""Lists on the command line, checked before anything is measured."""

import argparse

from fastrnn.cells import REGISTRY

CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # as users call them -> in the registry
assert set(CELLS.values()) <= set(REGISTRY)


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
        return values
    low, high = values
    if high < low:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted the smaller number first")
    return [low << k for k in range((high // low).bit_length())]


def chosen(known: tuple[str, ...], what: str):
    """A list of names out of `known`, or all."""

    def parse(text: str) -> list[str]:
        names = list(known) if text == "all" else text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"got {what} {name!r}, wanted some of {','.join(known)}, or all")
        return names

    return parse
