"""What was learned while the hot path was made fast: text for `docs/benchmarks.md`."""

FINDINGS = """## Where the time goes

These figures were found with `cProfile`, by adding the steps of a request one by one, and by timing
each step inside a running server. Gains are from one machine and a tight loop, unless the text says
otherwise.

A cached opaque token takes about 3.1 µs: the middleware's own coroutine 0.2, the object of the
connection and the state 0.6, the wrapper around `send` 0.2, the context variable behind
`current_machine()` 0.3, the search through six headers 0.5, the digest 0.35, the look-up 0.35, the
scope policy 0.4, and the check that `verify` was not replaced 0.1. A static graph adds 0.3, a live
one 0.55. A JWT of 700 bytes adds 0.9, nearly all of it for BLAKE2b. **In a server each step takes
three to four times as long**, and the steps of starlette's middleware take three times as long:
between two requests the server's own code has displaced them from the processor's caches. The rows
of uvicorn show this.

**The aims of the cached rows are missed.** Starlette's middleware with a dict takes 2.2 µs for an
opaque token. The remaining cost has four parts: hashing the token, so that it is not kept in
memory; the scope check on every request; wrapping `send`, so that a guard can still refuse; and the
context variable. Starlette's middleware does none of these. SHA-256 would save 0.4 µs of a JWT, but
only on a processor with instructions for it. In FastAPI, any dependency costs about 7.6 µs of the
14, and FastAPI takes another 0.3 to give the guard the scopes of `Security`.

| tried | gain | kept |
|---|---|---|
| BLAKE2b with the secret before the token, in one block, not by `key=` | 0.13 µs | yes |
| `Reason.ALLOWED` read once: Python 3.11 looks enum members up slowly | 0.25 µs | yes |
| an API key header looked for only where there is one; length checked in place | 0.1 µs | yes |
| one store, read without a lock: a read marks its entry, no more | 0.65 µs, 4 of many | yes |
| a synchronous `recall()` of the header's bytes, so that only unknown ones are parsed | 0.9 µs, \
for a JWT 1.8 | yes, but a new token is looked up twice: 2 µs |
| the state of BLAKE2b under the secret copied, not made anew | 0.1 µs | yes |
| a method as `send`, not an object with `__call__` | 0.1 µs | yes |
| no `__slots__` in the object of the connection, and its defaults in the class | none | no |
| arguments by position, not by keyword | none | no |
| the scope policy written a second time in `recall()` | 0.1 µs | no: one rule in two places |
| the look-up's helper written in place | 0.03 µs | no: within the noise |
| SHA-256 in place of BLAKE2b | none: 0.1 µs slower | no |
| `acquire` and `release` in place of `with` | 0.07 µs | no: it reads worse |
| a JWT parsed once, not once for its class and again for its checks | 9 µs of 66 | yes |
| the parsed header of a JWT kept: all JWTs of an instance have the same header | 4 µs | yes |
| httpcore imported when the first client opens | 25 ms of 185 | no: the first request would pay |
| the call's own task left out of a first verification | 1 % | no: pool slots would be lost |
| an `OrderedDict` as that store: a dict is slow to find its oldest | 4 µs of 10 | yes |

A first verification adds about 0.2 ms to a bare POST over loopback: two tasks that no waiter can
cancel, the deadline of each socket operation, the bounded read of the answer, and its checks. This
is small compared with the tens of milliseconds that Clerk takes. (If `sniffio` is not installed,
httpcore tries to import it four times in each call, on both sides of that row.)

## Start, memory and floods

**The aim of 1.15 on the import of the middleware is missed.** Counted in instructions it is 1.27.
What is imported beyond httpx, httpcore and starlette are this package's own modules, and 40 % of
their time is Python making 50 dataclasses, each of some 0.5 ms on this machine. What a service may
never use is imported where it is used: the clients of the Backend API, a graph's file or its live
source, `tomllib`, `difflib`. To import what every service needs later would only move the cost to
the start, or to the first request.

At start the graph file is read once and the routes are walked once.

**One store** keeps the verdicts. A read is one look-up in a dict and marks the entry as used,
without a lock. Where the store is full, the oldest entry gives way unless it was read since the
store last looked at it; then it counts as the youngest again. A put looks at eight entries at most.

**A first opaque verification** reads the answer's `Date` once and filters the headers of the call
once. What is left over a bare POST is listed above.

**The flood** sends 1,000 new tokens over 200 connections in the same moment, while eight callers
ask with a cached token. One worker serves all of them on one event loop: a cached request waits for
the new ones that came before it, as it would behind any handler. What the row shows beyond that is
the refusal or the verification of each. All callers and Clerk's emulator share the machine's cores
with the server.

## The path of a new token

The last rows are counts, not times. They count the functions of this package that a request with a
new opaque token runs through, the files of these functions, and how often the next function is in
another file. `bench/path.py` defines each count, and `python -m bench.path` prints the path. The
aims are missed because of the steps of a first verification: one shared look-up that no waiter can
cancel, a call in a task of its own with its deadline and its slot, the strict parsing of the
answer, and the caching of the verdict. Writing some of these steps in place would save a frame, but
the rule that each one keeps would be harder to find."""
