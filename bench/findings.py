"""What was learned while the hot path was made fast: text for `docs/benchmarks.md`."""

FINDINGS = """## Where the time goes

Found with `cProfile`, by adding the steps of a request one by one, and by timing each step inside a
running server. Gains are of one machine and of a tight loop, unless said otherwise.

A cached opaque token takes some 2.4 µs: the ASGI layer itself 0.15, the kind of connection and the
state 0.2, the header and its form 0.45, the digest 0.25, the look-up 0.15, the scope policy 0.2,
the watch over the reply 0.4, and the rest the calls between them. **In a server each step takes
three to four times as long**, and those of starlette's middleware three times: between two
requests the server's own code has pushed them out of the processor's caches. The rows of uvicorn
show that.

**The aim of 0.8 on the cached opaque token is missed**, and so is 0.95 on the fastest of servers,
which a dict misses there too. What is left are a digest, so that no token is kept in memory; the
strict form of the header; a decision that is made anew on every request; and a reply that can still
become a refusal. The middleware that is compared has none of them.

| tried | gain | kept |
|---|---|---|
| BLAKE2b with the secret before the token, in one block, not by `key=` | 0.13 µs | yes |
| `Reason.ALLOWED` read once: Python 3.11 looks enum members up slowly | 0.25 µs | yes |
| an API key header looked for only where there is one; length checked in place | 0.1 µs | yes |
| a dict of the verdicts in use before the store, which takes a lock | 0.65 µs | yes |
| a synchronous `recall()` before `verify()` | 0.05 µs | no: a miss is looked up twice |
| the look-up's helper written in place | 0.03 µs | no: within the noise |
| SHA-256 in place of BLAKE2b | none: 0.1 µs slower | no |
| `acquire` and `release` in place of `with` | 0.07 µs | no: it reads worse |
| a JWT taken apart once, not for its class and again for its checks | 9 µs of 66 | yes |
| the header of a JWT remembered: all of an instance have the same | 4 µs | yes |
| httpcore imported when the first client opens | 25 ms of 185 | no: the first request would pay |
| the call's own task left out of a first verification | 1 % | no: pool slots would be lost |
| an `OrderedDict` of those in use: a dict is slow to find its oldest | 4 µs of 10 | yes |
| `[]` in place of cachetools' `get`, which looks up twice | 1 µs of 6 | yes |

A first verification adds some 0.2 ms to a bare POST over loopback: two tasks that no waiter can
cancel, the deadline of each socket operation, the bounded read of the answer, and its checks. It is
small beside the tens of milliseconds that Clerk takes. (Where `sniffio` is not installed, httpcore
looks for it four times in each call, on both sides of that row.)

## How far a new token goes

The last rows count, and time nothing: the functions of this package that a request with a new
opaque token runs through, their files, and how often the next function is in another file.
`bench/path.py` defines each count, and `python -m bench.path` prints the path. Where an aim is
missed, the steps are those of a first verification: one shared look-up that no waiter can cancel, a
call in a task of its own with its deadline and its slot, the strict reading of the answer, and the
verdict's way into the cache. To write some of them in place would save a frame and hide a rule.
"""
