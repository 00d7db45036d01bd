"""Verification: turns a credential into an identity or a refusal.

`verifier` runs the steps: take the cached verdict or start one shared verification, then apply the
policy. `policy` defines which credentials are accepted and who may call, as tables and pure
functions. `authorization` applies the policy to a cached verdict. `online` asks Clerk about opaque
credentials. `offline` verifies JWTs, with `signature` and `key_set`. It is imported only where JWTs
are configured. This folder may import every folder below it except `outbound`.
"""
