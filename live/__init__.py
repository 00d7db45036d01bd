"""Checks against a development instance of Clerk's: does Clerk behave as this package assumes?

Run by `make live`, or `python -m live`; not part of the wheel. `options` reads the command line and
the environment, and refuses a production instance's key. `calls` is the connection that every call
goes through: it keeps to the instance's rate limit and counts what is billed. `stage` creates the
machines that the checks need, and deletes them. `checks` has one file for each part of the API; a
check is a function that returns a `Finding`. `run` does them in order and `report` prints them.
"""
