"""How calls leave this process.

`http` is one pooled client with deadlines, retries and a bounded number of calls at once; `sockets`
keep the deadline of a call; `breaker` leaves an upstream alone that does not answer. Nothing here
knows what an answer of Clerk's means. May import the vocabulary.
"""
