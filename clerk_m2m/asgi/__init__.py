"""The ASGI side: a request in, an identity or a refusal out.

`middleware` takes the credential out of the headers, has it verified and passes the request on, or
answers with one of the `refusals`. `excluded` holds the paths that need no credential, `starting`
what is warned of at the start, `lifespan` the start that fails. `disconnect` notices a client that
has gone meanwhile. `guards` are what a route asks of the identity. `openapi` shows the refusals in
FastAPI's document. May import `verification` and everything below it. Only the public names, the
test kit, the demo and the command line import this folder.
"""
