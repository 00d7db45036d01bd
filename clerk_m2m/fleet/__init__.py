"""A fleet: services share their revocations through Redis.

The *log* is a Redis stream of invalidations. Its rows are numbered, and each names the row before
it. `script` holds the two Lua programs that run in Redis, `log` calls them within the time limits
of `running`, `rows` writes and reads one row, `outbox` writes the rows of this process. Each
verifier has a `member`: it publishes rows, and its `follower` applies the rows of other processes.
`keys` derives two keys from the fleet's key: one signs rows, the other makes the digests of tokens.
`publishing` and `health` are for the command line.

How lost rows are noticed: each row holds a random nonce and the nonce of the row before it. Every
0.4 s a follower compares the number and the nonce of the last row, over a client of its own. They
do not match if Redis was emptied, rows were evicted or a failover lost some. Then every cached
verdict is void and must be verified again. The log begins a new epoch, and every process writes the
denials that it knows into it.

The *tier* shares verdicts between the processes of one service, if that is set. `tier` decides when
to look in Redis and when to ask Clerk, `seal` encrypts an entry, `contents` defines its members,
and `applied` knows which entries a revocation makes unusable. `exchange` hands the steps of many
tokens to `entries`, which runs them in Redis.

Redis is not trusted. A row without a valid signature is ignored, and so is a verdict that is not
encrypted under the right keys. So an attacker who can write to Redis can hide revocations, but
cannot make a process accept a credential that it would refuse without Redis.

All calls to Redis are made in the event loop of `background`, a thread of the process. They do not
depend on the event loop of a request, and a cancelled request does not close a connection.

May import `lookups`, `observe`, `transport`, the value `Fleet` and the vocabulary. `redis` is
imported only by a process that has a fleet.
"""
