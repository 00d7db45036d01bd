"""Mutation testing: changes the security core, one place at a time, and runs the tests.

A mutant is a copy of the commit with one change made by cosmic-ray: `<` for `<=`, `not` removed, a
number plus one. The tests kill it by failing, or survive it by passing. For each mutant only the
tests that run the changed line are run, those of the same folder first, then the short ones, until
one fails. The sample is random; its seed is the hash of the commit, so a commit has one score.

Everything happens in copies of the commit in a temporary folder. So uncommitted changes are not
tested, and a run that is killed leaves the checkout unchanged.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from coverage import CoverageData

ROOT = Path(__file__).parent.parent
CORE = [
    *("credentials.py", "decision.py", "secret.py"),
    *("asgi/*.py", "graph/*.py", "lookups/*.py", "verification/*.py"),
    *(f"fleet/{name}.py" for name in ("seal", "applied", "position", "rows", "entries")),
    *("outbound/auth.py", "outbound/minting.py"),
]
OF_ALL_MODULES = "tests/test_values.py"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")

SAMPLE = 300
GOAL = 0.95
MOST_EQUIVALENT = 0.05  # of the sample

# Seconds: the tests of one mutant take at most this long together, and no test takes longer.
SECONDS_OF_TESTS = 45.0
LONGEST_TEST = 5.0


@dataclass(frozen=True)
class Mutant:
    """One change: the module's path, the operator, the number of its match, and the lines."""

    path: str
    operator: str
    occurrence: int
    lines: tuple[int, int]
    in_function: bool

    def code(self, original: str) -> str:
        """Return the module's text with the change."""
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        changed = mutate_code(original, operator, self.occurrence)
        return str(changed)

    def change(self, original: str) -> str:
        """Return the changed lines, before and after; `equivalent.toml` names mutants by them."""
        compared = difflib.ndiff(original.splitlines(), self.code(original).splitlines())
        lines = [line for line in compared if line[:2] in ("- ", "+ ")]
        return "\n".join(f"{line[0]} {line[2:].strip()}" for line in lines)


@dataclass(frozen=True)
class Suite:
    """The seconds that each test takes, and which tests run which line of a module."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]

    def tests_of(self, mutant: Mutant, statement: tuple[int, int]) -> list[str]:
        """Return the tests that run the changed lines, in the order in which to run them."""
        lines = self.lines.get(mutant.path, {})
        found = set[str]()
        for first, last in (mutant.lines, statement) if mutant.in_function else ():
            found = found or {
                test for line in range(first, last + 1) for test in lines.get(line, ())
            }
        if not found:  # it runs when the module is imported: any test of the module may notice
            found = set[str]().union(*lines.values())
            found |= {test for test in self.seconds if test.startswith(OF_ALL_MODULES)}
        return self._affordable(mutant.path, found)

    def _affordable(self, path: str, tests: set[str]) -> list[str]:
        place = Path("tests", *Path(path).parts[1:-1])
        own = {f"{place}/", f"tests/test_{Path(path).stem}.py", OF_ALL_MODULES} - {"tests/"}
        known = [test for test in tests if self.seconds.get(test, LONGEST_TEST) < LONGEST_TEST]
        known.sort(key=lambda test: (not test.startswith(tuple(own)), self.seconds[test], test))
        chosen, total = [], 0.0
        for test in known:
            total += self.seconds[test] + 0.005
            if total > SECONDS_OF_TESTS:
                break
            chosen.append(test)
        return chosen


class Copy:
    """A copy of the commit in which one mutant at a time is tested."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder = folder
        folder.mkdir()
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "x"], cwd=folder, check=True, input=archive.stdout)

    def run(self, *command: str, timeout: float, **environment: str) -> int | None:
        """Run python in the copy; return its exit code, or None if it was killed at the timeout."""
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.folder.with_suffix(".log").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def write(self, path: str, text: str) -> None:
        """Write a module, and delete what was compiled from its previous text."""
        module = self.folder / path
        module.write_text(text, "utf-8")
        for compiled in module.parent.glob(f"__pycache__/{module.stem}.*"):
            compiled.unlink()

    def last_line(self) -> str:
        """Return the last line that names a failed test, or else the last line."""
        lines = self.folder.with_suffix(".log").read_text("utf-8", "replace").splitlines()
        named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return (named or lines or [""])[-1][:160]


def measured_suite(copy: Copy) -> Suite:
    """Run the whole suite once, with coverage."""
    data, seconds = copy.folder / "lines.coverage", copy.folder / "seconds.json"
    code = copy.run(
        *("-m", "coverage", "run", "--rcfile=", f"--data-file={data}", "--source=clerk_m2m"),
        *("-m", "pytest", "-q", "-p", "release.selection", "-p", "no:cacheprovider"),
        timeout=3600,
        MUTANTS_RECORD=str(seconds),
        COVERAGE_CORE="ctrace",  # the core that records which test ran, in every version of Python
    )
    if code not in (0, 1):
        raise SystemExit(f"The suite did not run: {copy.last_line()}")
    if code:
        print("Some tests fail without a mutant; they are left out:", copy.last_line())
    recorded = CoverageData(str(data))
    recorded.read()
    lines: dict[str, dict[int, set[str]]] = {}
    for file in recorded.measured_files():
        by_line = recorded.contexts_by_lineno(file)
        path = str(Path(file).relative_to(copy.folder))
        lines[path] = {line: set(tests) - {""} for line, tests in by_line.items()}
    return Suite(json.loads(seconds.read_text("utf-8")), lines)


@cache
def statements(path: Path) -> list[tuple[int, int]]:
    """Return the first and the last line of each simple statement or head of a block."""
    return [
        (node.lineno, node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno or 0)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.stmt)
    ]


def statement_of(folder: Path, mutant: Mutant) -> tuple[int, int]:
    """Return the lines of the smallest statement that the mutant is in."""
    first, last = mutant.lines
    around = [each for each in statements(folder / mutant.path) if each[0] <= first <= each[1]]
    return min(around, key=lambda each: each[1] - each[0], default=(first, last))


def not_run(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the places that only a type checker reads: annotations, `TYPE_CHECKING` blocks."""
    found: list[ast.AST | None] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                found.append(annotation)
            case ast.FunctionDef(returns=returns) | ast.AsyncFunctionDef(returns=returns):
                found.append(returns)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                found.append(node)
    return [
        ((each.lineno, each.col_offset), (each.end_lineno or 0, each.end_col_offset or 0))
        for each in found
        if isinstance(each, ast.expr | ast.stmt)
    ]


def of_functions(path: Path) -> list[tuple[int, int]]:
    """Return the first and the last line of the body of each function."""
    return [
        (node.body[0].lineno, node.end_lineno or 0)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def places(folder: Path) -> Iterator[list[Mutant]]:
    """Yield the mutants of each place: the changes of one kind at one position of the core."""
    operators = {
        name: cosmic_ray.plugins.get_operator(name)
        for name in sorted(cosmic_ray.plugins.operator_names())
        if "NoOp" not in name
    }
    grouped: dict[tuple[object, ...], list[Mutant]] = {}
    for path in sorted(each for pattern in CORE for each in (folder / "clerk_m2m").glob(pattern)):
        name, skipped, bodies = str(path.relative_to(folder)), not_run(path), of_functions(path)
        nodes = list(ast_nodes(get_ast_from_path(path)))
        for operator, made in operators.items():
            if made.arguments():
                continue
            found = (at for node in nodes for at in made().mutation_positions(node))
            for occurrence, (start, end) in enumerate(found):
                if not any(first <= start <= last for first, last in skipped):
                    inside = any(first <= start[0] <= last for first, last in bodies)
                    mutant = Mutant(name, operator, occurrence, (start[0], end[0]), inside)
                    kind = operator.split("_")[0]
                    grouped.setdefault((name, start, end, kind), []).append(mutant)
    yield from grouped.values()


def sampled(
    folder: Path, found: list[list[Mutant]], size: int, chance: random.Random
) -> dict[Mutant, str]:
    """Choose one mutant at each of `size` places; return the change that each one makes."""
    changes: dict[Mutant, str] = {}
    for place in chance.sample(found, len(found)):
        mutant = chance.choice(place)
        try:
            changes[mutant] = mutant.change((folder / mutant.path).read_text("utf-8"))
        except AttributeError:
            continue  # cosmic-ray 8.7 fails at `except` with a dotted name
        if len(changes) == size:
            break
    return changes


@cache
def listed_as_equivalent() -> list[dict[str, str]]:
    """Return the entries of `equivalent.toml`."""
    return list(tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"])


def is_equivalent(mutant: Mutant, change: str) -> bool:
    """Return True if the list has the mutant: its file and change, or what it swaps in any file."""
    before, _, after = change.partition("\n+ ")
    return any(
        (mutant.path, change) == (each["file"], each["change"].strip())
        if "change" in each
        else "\n" not in after
        and f"- {after}" == before.replace(each["before"], each["after"], 1) != before
        for each in listed_as_equivalent()
    )


def verdict(copy: Copy, mutant: Mutant, tests: list[str]) -> str:
    """Test one mutant; return `survived` and why, or what killed it."""
    if not tests:
        return "survived: no test runs it"
    original = (copy.folder / mutant.path).read_text("utf-8")
    selection = copy.folder.with_suffix(".json")
    selection.write_text(json.dumps(tests), "utf-8")
    copy.write(mutant.path, mutant.code(original))
    files = sorted({test.split("::")[0] for test in tests})
    try:
        code = copy.run(
            *("-m", "pytest", "-q", "-x", "--tb=no", "--timeout=30"),
            *("-p", "release.selection", "-p", "no:cacheprovider", *files),
            timeout=60 + 5 * SECONDS_OF_TESTS,
            MUTANTS_SELECT=str(selection),
        )
    finally:
        copy.write(mutant.path, original)
    if code is None:
        return "killed: time-out"
    return f"survived: {len(tests)} tests" if code == 0 else f"killed: {copy.last_line()}"


def main() -> None:
    """Sample, test, report; exit with 1 if the score is below the goal."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--commit", default="HEAD", help="what is tested (%(default)s)")
    asked = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", asked.commit], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        raise SystemExit(run(Path(temporary), commit, asked.sample, asked.jobs))


def run(temporary: Path, commit: str, size: int, jobs: int) -> int:
    """Test a sample of the commit's mutants; return the exit code."""
    started = time.monotonic()
    copies = [Copy(temporary / f"copy{number}", commit) for number in range(jobs)]
    folder = copies[0].folder
    chance = random.Random(commit)  # noqa: S311 - a sample, not a secret
    found = list(places(folder))
    changes = sampled(folder, found, size, chance)
    sample = list(changes)
    suite = measured_suite(copies[0])
    print(
        f"{len(sample)} of {len(found)} places; the suite took {time.monotonic() - started:.0f} s"
    )

    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    jobs_of = {each: suite.tests_of(each, statement_of(folder, each)) for each in sample}

    def test(mutant: Mutant) -> str:
        if is_equivalent(mutant, changes[mutant]):
            return "equivalent"
        copy = free.get()
        try:
            return verdict(copy, mutant, jobs_of[mutant])
        finally:
            free.put(copy)

    results: dict[Mutant, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for number, (mutant, said) in enumerate(
            zip(sample, pool.map(test, sample), strict=True), 1
        ):
            results[mutant] = said
            print(f"{number:3} {mutant.path}:{mutant.lines[0]} {said}", flush=True)
    return report(results, changes, time.monotonic() - started)


def report(results: dict[Mutant, str], changes: dict[Mutant, str], seconds: float) -> int:
    """Print the survivors and the score; return the exit code."""
    survivors = [mutant for mutant, said in results.items() if said.startswith("survived")]
    alike = sum(said == "equivalent" for said in results.values())
    for mutant in survivors:
        print(f"\n{mutant.path}:{mutant.lines[0]} {mutant.operator} {results[mutant]}")
        print(changes[mutant])
    score = 1 - len(survivors) / len(results)
    print(
        f"\n{len(results)} mutants in {seconds / 60:.0f} min: {len(survivors)} survived, "
        f"{alike} are equivalent; score {score:.1%}, goal {GOAL:.0%}"
    )
    return int(score < GOAL or alike > MOST_EQUIVALENT * len(results))


if __name__ == "__main__":
    main()
