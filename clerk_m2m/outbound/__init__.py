"""The caller's side: calls to other services that carry this machine's token.

`auth` is the `httpx.Auth` of a client: it puts the token into each request, and replaces a token
that a service rejects. `minting` keeps one live token for all calls. May import `backend_api`,
`transport` and the vocabulary.
"""
