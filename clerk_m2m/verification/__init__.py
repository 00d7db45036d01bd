"""From a credential to an identity, or to the refusal that it deserves.

`verifier` tells the story: the cached verdict, or one shared verification, then the policy.
`policy` holds what is accepted and who may call, as tables and pure functions, and `authorization`
applies it to a cached verdict. `online` asks Clerk about opaque credentials. `offline` verifies
JWTs, with `signature` and `key_set`, and is imported only where JWTs are configured. May import
every folder below it but `outbound`.
"""
