"""`clerk-m2m demo`: shows all features in one terminal, with real servers and real calls.

The demo runs scenes; a scene has steps, and each step makes calls and checks their outcome.

`servers` serves an app on a port. `services` defines the three services and their machines. `calls`
makes the calls, `report` holds the results, and `screen` shows them. `story`, `sharing` and
`endings` are the scenes, and `outcomes` the expected answers. `runner` runs a step and compares.
`workers` starts worker processes of one service that share verdicts, with a server that `valkey`
starts. Each process runs `worker`, and `lines` sends its requests. `playing` starts everything.

May import every folder but `cli`. Only the command line imports it, and only `playing`. This file
imports nothing, because each `worker` process loads it.
"""
