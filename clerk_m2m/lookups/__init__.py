"""What is known, for how long, and who is asking.

`verdict` is what a look-up comes to. `cache` keeps verdicts for their lifetime, in a `store` that
is read without a lock. `single_flight` lets concurrent requests for one key share one look-up, and
tells who waits for it. `recent_keys` remembers which keys were good or were refused a while ago,
which decides whose call goes first.
`invalidations` is the table of what must be asked again. Who is asked is not known here: a look-up
is a function that the caller gives. May import the vocabulary, `observe` and the priorities of
`transport`.
"""
