"""The cache of verdicts, shared look-ups, and invalidations.

`verdict` defines the result of a look-up. `cache` keeps verdicts for their lifetime, in a `store`
that is read without a lock, under a `digest` of the credential. `single_flight` lets concurrent
requests for one key share one look-up, and counts its waiters. `recent_keys` remembers which keys
were accepted, or refused for lack of capacity, a while ago: this decides the priority of calls.
`invalidations` is the table of keys whose verdicts are void, made of single `invalidation`s. A
look-up is a function that the caller passes in, so this folder does not know who is asked. It may
import the vocabulary, `observe` and the priorities of `transport`.
"""
