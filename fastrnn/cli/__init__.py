"""The command line: python -m fastrnn profile | bench | info | warmup | cache."""

import argparse
import sys
from collections.abc import Sequence

from fastrnn.cli import bench, cache, info, profile, warmup


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 2 for wrong arguments, 130 when interrupted."""
    parser = _Parser(prog="fastrnn", description="Recurrent layers for NumPy: measure, compile ahead, tell versions.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for module in (profile, bench, info, warmup, cache):
        name = module.__name__.rsplit(".", 1)[1]
        command = commands.add_parser(name, help=(module.__doc__ or name).splitlines()[0], description=module.__doc__)
        command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(argv)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
