"""The cost of this package, compared with its alternatives; run it with `make bench`."""
