"""The ASGI middleware and the guards: verify a request's credential, then pass it on or refuse it.

`middleware` reads the credential from the headers, verifies it, and passes the request on or sends
one of the `refusals`. `excluded` decides which paths need no credential. `starting` logs warnings
at the start, `routes` finds mistakes on FastAPI's routes, and `lifespan` makes the start fail.
`disconnect` detects a client that disconnects during the verification. `guards` are the checks of a
route on the caller's identity. `openapi` adds guards and refusals to FastAPI's document. This
folder may import `verification` and everything below it. Only the public names, the test kit, the
demo and the command line import this folder.
"""
