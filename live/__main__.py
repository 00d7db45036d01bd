"""`python -m live`: see `python -m live --help`, and docs/live.md."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence

from clerk_m2m import ConfigurationError
from live.calls import presentable
from live.options import Options, read_options
from live.report import COULD_NOT, Report
from live.run import run


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run what the command line asks for, and return the exit code."""
    try:
        options = read_options(arguments, environ)
    except ConfigurationError as exc:
        print(exc, file=sys.stderr)
        return COULD_NOT
    report = Report(api_url=options.api_url)
    try:
        asyncio.run(_run(options, report))
    except (KeyboardInterrupt, asyncio.CancelledError):
        report.failure = "It was stopped."
    except Exception as exc:  # noqa: BLE001  Python's own exit code 1 would say "something differs"
        print(presentable(traceback.format_exc()), file=sys.stderr)
        report.failure = f"It ended with {type(exc).__name__}."
    report.show(sys.stdout)
    return _write(options, report)


async def _run(options: Options, report: Report) -> None:
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        # Like Ctrl-C: the run deletes what it created before the process ends.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run(options, report, tell=lambda line: print(line, file=sys.stderr, flush=True))


def _write(options: Options, report: Report) -> int:
    if options.json_file is not None:
        try:
            options.json_file.write_text(report.as_json() + "\n", "utf-8")
        except OSError as exc:
            print(f"--json: the file cannot be written ({type(exc).__name__}).", file=sys.stderr)
            return COULD_NOT
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
