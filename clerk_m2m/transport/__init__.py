"""How calls leave this process.

`call` is one call and what was received. `http` is one pooled client that sends calls, with
deadlines; `attempts` sends one call, and again where that is safe. `proxies` reads those of
the environment. `admission` holds the rules of which call goes out, which waits and which is
refused, without any I/O; `gate` lets calls wait for their turn in an event loop. `breaker` leaves
an upstream alone that does not answer. `sockets` keep the deadline of a call. Nothing here knows
what an answer of Clerk's means. May import the vocabulary.
"""
