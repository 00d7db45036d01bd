"""A fleet: services tell each other through Redis what was revoked.

The *log* is a Redis stream of invalidations, numbered and chained. `script` holds the two programs
that run in Redis, `log` calls them within the limits of `running`, `rows` writes and reads one row,
`outbox` writes those of this process. `member` is what a verifier has: it publishes rows, and its
`follower` applies those of others. `keys` derives from the fleet's key what signs a row and what
digests a token. `publishing` and `health` are for the command line.

How nothing is lost: each row holds a random nonce and that of the row before it. Whoever follows
compares the number and the nonce of the last row every 0.4 s, over a connection that reads only.
Where they do not fit (Redis was emptied, rows were evicted, a failover lost some), nothing that was
asked before counts any longer: it is verified again, the log begins a new epoch, and every process
writes the denials that it knows into it.

The *tier* shares verdicts between the processes of one service, if that is set. `tier` decides when
to look and when to ask Clerk, `seal` encrypts an entry and `contents` says what is in it; `applied`
knows which of them a revocation outlaws. `exchange` hands the steps of many tokens to `entries`,
which runs them in Redis.

Redis is not trusted. A row without a good signature is ignored, and a verdict that is not sealed
under the right keys too, so whoever writes to Redis can hide revocations, and lets nobody in that a
process on its own would not let in.

All calls to Redis are made in the event loop of `background`, a thread of the process: they do not
depend on the event loop of a request, and no cancelled request costs a connection.

May import `lookups`, `observe`, `transport`, the value `Fleet` and the vocabulary. `redis` is
imported only by a process that has a fleet.
"""
