"""The caller's side: calls to other services that carry this machine's token.

`auth` is the `httpx.Auth` of a client: it puts the token into each request, and replaces a token
that a service rejects (`rejections` bounds how often, `trace` tells what httpx hides, `hosts` says
where the token may go). `shared_token` keeps one live token for all calls, and `minting` is one
mint. All mints run in one event loop (`background`), so that event loops and threads can wait for
the same one (`flight`), and the rules exist once for synchronous and asynchronous callers. May
import `backend_api`, `observe` and the vocabulary.
"""
