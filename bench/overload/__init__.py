"""Overload: more requests than Clerk can answer, over real sockets, in three processes.

`upstream` replaces Clerk, with a fixed capacity. `service` is an app behind the middleware.
`clients` send requests at a given rate, whether they are answered or not. `scenarios` defines what
each scenario does and its aims. `make overload` runs them all, `python -m bench.overload NAME` one.
"""
