"""`python -m clerk_m2m`, and the console script `clerk-m2m`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

_NEEDED: Final = ("typer", "rich", "fastapi", "uvicorn", "websockets")


def main() -> None:
    """Run the command line, or say which extra must be installed for it."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"The command line needs {', '.join(missing)}: pip install 'clerk-m2m[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    # Imported only now, because it imports the packages that were checked above.
    from clerk_m2m.cli import app

    app(prog_name="clerk-m2m")


if __name__ == "__main__":
    main()
