"""Sends HTTP calls.

`call` is one call and its response. `http` is a pooled client that sends calls with deadlines;
`attempts` sends one call, and retries it if that is safe. `proxies` reads the proxies of the
environment. `admission` decides, without any I/O, which call is sent, which waits and which is
refused; in `gate` calls wait for a slot in an event loop. `breaker` stops calls to an upstream that
does not answer. `sockets` enforces the deadline of a call. Nothing here interprets Clerk's answers.
May import the vocabulary.
"""
