"""Clerk's machine Backend API, typed in and out.

One file per resource (`machines`, `m2m_tokens`, `api_keys`, `oauth_tokens`, `jwks`) holds its
operations, each path once. `resources` are the values that they give, `parsing` reads them from
JSON, `calls` says what an answer means. `client` puts them together. May import `transport` and the
vocabulary.
"""
