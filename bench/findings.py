"""What was learned while the hot path was made fast: text for `docs/benchmarks.md`."""

FINDINGS = """## Where the time goes

These figures were found with `cProfile`, by adding the steps of a request one by one, and by timing
each step inside a running server. Gains are from one machine and a tight loop, unless the text says
otherwise.

A cached opaque token takes about 2.4 µs: the ASGI layer itself 0.15, the kind of connection and the
state 0.2, the header and its form 0.45, the digest 0.25, the look-up 0.15, the scope policy 0.2,
the wrapper around `send` 0.4, and the rest the calls between these steps. **In a server each step
takes three to four times as long**, and the steps of starlette's middleware take three times as
long: between two requests the server's own code has displaced them from the processor's caches. The
rows of uvicorn show this.

**The aim of 0.8 on the cached opaque token is missed.** The aim of 0.95 under uvicorn is missed
too; starlette's middleware with a dict hardly reaches it. The remaining cost has four parts:
hashing the token, so that it is not kept in memory; strict parsing of the header; the scope check
on every request; and wrapping `send`, so that a guard can still refuse. Starlette's middleware does
none of these.

| tried | gain | kept |
|---|---|---|
| BLAKE2b with the secret before the token, in one block, not by `key=` | 0.13 µs | yes |
| `Reason.ALLOWED` read once: Python 3.11 looks enum members up slowly | 0.25 µs | yes |
| an API key header looked for only where there is one; length checked in place | 0.1 µs | yes |
| a dict of the verdicts in use, looked into before the store, which takes a lock | 0.65 µs | yes |
| a synchronous `recall()` before `verify()` | 0.05 µs | no: a miss is looked up twice |
| the look-up's helper written in place | 0.03 µs | no: within the noise |
| SHA-256 in place of BLAKE2b | none: 0.1 µs slower | no |
| `acquire` and `release` in place of `with` | 0.07 µs | no: it reads worse |
| a JWT parsed once, not once for its class and again for its checks | 9 µs of 66 | yes |
| the parsed header of a JWT kept: all JWTs of an instance have the same header | 4 µs | yes |
| httpcore imported when the first client opens | 25 ms of 185 | no: the first request would pay |
| the call's own task left out of a first verification | 1 % | no: pool slots would be lost |
| an `OrderedDict` of the verdicts in use: a dict is slow to find its oldest | 4 µs of 10 | yes |
| `[]` in place of cachetools' `get`, which looks up twice | 1 µs of 6 | yes |

A first verification adds about 0.2 ms to a bare POST over loopback: two tasks that no waiter can
cancel, the deadline of each socket operation, the bounded read of the answer, and its checks. This
is small compared with the tens of milliseconds that Clerk takes. (If `sniffio` is not installed,
httpcore tries to import it four times in each call, on both sides of that row.)

## The path of a new token

The last rows are counts, not times. They count the functions of this package that a request with a
new opaque token runs through, the files of these functions, and how often the next function is in
another file. `bench/path.py` defines each count, and `python -m bench.path` prints the path. The
aims are missed because of the steps of a first verification: one shared look-up that no waiter can
cancel, a call in a task of its own with its deadline and its slot, the strict parsing of the
answer, and the caching of the verdict. Writing some of these steps in place would save a frame, but
the rule that each one keeps would be harder to find."""
