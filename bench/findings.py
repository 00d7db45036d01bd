"""The text of `docs/benchmarks.md` about where the time goes, and which changes were tried."""

FINDINGS = """## Where the time goes

These figures were found with `cProfile`, by adding the steps of a request one by one, and by timing
each step inside a running server. Gains are from one machine and a tight loop, unless the text says
otherwise.

A cached opaque token takes about 3.1 µs: the middleware's own coroutine 0.2, the object for the
connection and the state 0.6, the wrapper around `send` 0.2, the context variable behind
`current_machine()` 0.3, the search through six headers 0.5, the digest 0.35, the look-up 0.35, the
scope policy 0.4, and the check that `verify` was not replaced 0.1. A static graph adds 0.3 µs, a
live one 0.55. A JWT of 700 bytes adds 0.9 µs, nearly all of it for BLAKE2b. **In a server each step
takes three to four times as long**, and the steps of starlette's middleware take three times as
long: between two requests, the server's own code replaces them in the processor's caches. The rows
of uvicorn show this.

**The aims of the cached rows are missed.** Starlette's middleware with a dict takes 2.2 µs for an
opaque token. The remaining cost has four parts: hashing the token, so that it is not kept in
memory; the scope check on every request; wrapping `send`, so that a guard can still refuse; and the
context variable. Starlette's middleware does none of these. SHA-256 would save 0.4 µs of a JWT, but
only on a processor with instructions for it. In FastAPI a request takes 14 µs. Any dependency costs
about 7.6 of them, and FastAPI takes another 0.3 to pass the scopes of `Security` to the guard.

| tried | gain | kept |
|---|---|---|
| BLAKE2b with the secret before the token, in one block, not by `key=` | 0.13 µs | yes |
| `Reason.ALLOWED` read once: Python 3.11 looks enum members up slowly | 0.25 µs | yes |
| the API key header searched only if one is configured; length checked inline | 0.1 µs | yes |
| one store, read without a lock: a read only marks its entry | 0.65 µs, 4 µs for many | yes |
| a synchronous `recall()` of the header's bytes: only unknown headers are parsed | 0.9 µs, \
for a JWT 1.8 µs | yes, but a new token is looked up twice: 2 µs |
| a copy of BLAKE2b's state with the secret, not a new state | 0.1 µs | yes |
| a method as `send`, not an object with `__call__` | 0.1 µs | yes |
| no `__slots__` in the object for the connection, and its defaults in the class | none | no |
| arguments by position, not by keyword | none | no |
| the scope policy written a second time in `recall()` | 0.1 µs | no: one rule in two places |
| the look-up's helper written inline | 0.03 µs | no: within the noise |
| SHA-256 in place of BLAKE2b | none: 0.1 µs slower | no |
| `acquire` and `release` in place of `with` | 0.07 µs | no: harder to read |
| a JWT parsed once, not once for its class and again for its checks | 9 µs of 66 | yes |
| the parsed header of a JWT cached: all JWTs of an instance have the same header | 4 µs | yes |
| httpcore imported when the first client opens | 25 ms of 185 | no: slows the first request |
| a first verification without a separate task for the call | 1 % | no: loses pool slots |
| an `OrderedDict` as the store: a dict is slow to find its oldest entry | 4 µs of 10 | yes |

A first verification adds about 0.2 ms to a bare POST over loopback: two tasks that no waiter can
cancel, the deadline of each socket operation, the bounded read of the answer, and its checks. This
is small compared with the tens of milliseconds that Clerk takes. (If `sniffio` is not installed,
httpcore tries to import it four times in each call, on both sides of that row.)

## Start, memory and floods

**The aim of 1.15 on the import of the middleware is missed.** Counted in instructions the ratio is
1.27. Beyond httpx, httpcore and starlette, only this package's own modules are imported. Python
spends 40 % of their time on making 50 dataclasses, about 0.5 ms for each on this machine. A module
that a service may never use is imported at its first use: the clients of the Backend API, the file
or the live source of a graph, `tomllib`, `difflib`. If modules that every service needs were
imported later, the cost would only move to the start of the server or to the first request.

At the start the graph file is read once, and the app's routes are visited once.

**One store** holds the verdicts. A read is one look-up in a dict and marks the entry as used,
without a lock. If the store is full, the oldest entry is evicted, unless it was read since the
store last examined it. In that case it counts as the newest again. A write examines eight entries
at most.

**A first opaque verification** reads the answer's `Date` once and filters the headers of the call
once. The other costs beyond a bare POST are listed above.

**The flood** sends 1,000 new tokens over 200 connections at the same moment, while eight callers
send requests with a cached token. One worker serves all of them in one event loop. So a cached
request waits for the new ones that came before it, as it would behind any handler. The rest of the
time in the row is spent on refusing or verifying each new token. All callers and the emulator share
the machine's cores with the server.

## The path of a new token

The last rows are counts, not times. They count the functions of this package that a request with a
new opaque token calls, the files of these functions, and how often the next function is in another
file. `bench/path.py` defines each count, and `python -m bench.path` prints the path. The aims are
missed because of the steps of a first verification: one shared look-up that no waiter can cancel, a
call in its own task with a deadline and a slot, the strict parsing of the answer, and the caching
of the verdict. Writing a step inline would save a frame, but the rule of that step would be harder
to find."""
