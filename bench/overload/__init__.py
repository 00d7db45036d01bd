"""More asked than Clerk answers: a whole service, over real sockets, in three processes.

`upstream` stands for Clerk with a fixed capacity, `service` is an app behind the middleware, and
`clients` send requests at a given rate whether they are answered or not. `scenarios` says what is
done and what should come of it. `make overload` runs them all, `python -m bench.overload NAME` one.
"""
