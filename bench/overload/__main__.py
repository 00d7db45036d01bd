"""`python -m bench.overload [NAME …]`: run scenarios and print a table."""

from __future__ import annotations

import asyncio
import sys

from bench.overload.scenarios import SCENARIOS
from bench.overload.stage import Figure


def _shown(name: str, figure: Figure) -> str:
    aim = " and ".join(
        f"{sign} {bound:g}"
        for sign, bound in ((">=", figure.at_least), ("<=", figure.at_most))
        if bound is not None
    )
    missed = "" if figure.met else " **missed**"
    return f"| {name} | {figure.what} | {aim} | {figure.seen:.3g}{missed} |"


def main() -> int:
    """Run the named scenarios, or all; return 1 if an aim is missed, otherwise 0."""
    names = sys.argv[1:] or list(SCENARIOS)
    print("| scenario | figure | aim | seen |\n|---|---|---|---|", flush=True)
    missed = False
    for name in names:
        for figure in asyncio.run(SCENARIOS[name]()):
            missed = missed or not figure.met
            print(_shown(name, figure), flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
