"""Checks before a release: the distributions (`dist`), and the tests (`mutants`)."""
