"""The caller's side: calls to other services that carry this machine's token.

`auth` is the `httpx.Auth` of a client: it puts the token into each request, and replaces a token
that a service rejects. `rejections` limits how often that happens. `trace` reads what httpx does
not show to an `Auth`. `hosts` says where the token may be sent. `shared_token` keeps one live token
for all calls, and `minting` does one mint.

All mints run in one event loop (`background`), so event loops and threads can wait for the same
mint (`flight`). The rules are written once, for synchronous and for asynchronous callers. May
import `backend_api`, `observe` and the vocabulary.
"""
