"""`clerk-m2m demo`: the whole story in one terminal, with real servers and real calls.

`servers` serves an app on a port, `services` are the three services and their machines, `calls`
are the calls that the story makes, `report` is what came of them and `screen` shows it. `story`,
`sharing` and `endings` are the scenes, and `outcomes` the answers that they must get; `runner`
makes the call of each step and compares. `workers` starts the processes of a service that share
verdicts, on a server that `valkey` starts. Each of them runs `worker`, and `lines` is how it is
asked. `playing` opens all of it.

May import every folder but `cli`. Only the command line imports it, and only `playing`. Nothing is
imported here, since each `worker` starts with this file.
"""
