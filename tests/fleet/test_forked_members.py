"""A process that follows the log forks: the child misses no row that is written since the fork."""

from __future__ import annotations

import os

import pytest
from test_forks import output

from clerk_m2m.emulator import Emulator
from harness import SIGNING_KEY, serve

from .services import FLEET_KEY, Redis

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")

# Each child waits until the parent has written more rows. Then it prints how many rows it has
# applied, how many doubts it counted, and which of the tokens it accepts (1 or 0 for each).
SCRIPT = """
import asyncio, logging, os, sys, traceback
import redis
from clerk_m2m import ClerkClient, Fleet, Settings, TokenInvalidError, Verifier

logging.getLogger("clerk_m2m").addHandler(logging.NullHandler())  # it warns of the new log
origin, machine_id, key, instance_key, port, prefix, fleet_key, opaque_id, *tokens = sys.argv[1:]
opaque, first, second, third, good = tokens
fleet = Fleet(f"redis://127.0.0.1:{port}", keys=[fleet_key], prefix=prefix)
verifier = Verifier(Settings(machine_id=machine_id, machine_secret_key=key, api_url=origin,
                             secret_key=instance_key, graph="live", fleet=fleet))

async def accepts(token):
    try:
        await verifier.verify(token)
    except TokenInvalidError:
        return False
    return True

async def until(condition):
    async with asyncio.timeout(20):
        while not condition(verifier.measure().fleet):
            await asyncio.sleep(0.005)

async def before():
    await verifier.warm_up()
    await until(lambda fleet: fleet.in_sync)
    assert all([await accepts(each) for each in tokens])
    await verifier.invalidate_everywhere(token=first)
    await until(lambda fleet: fleet.applied == 1)

async def more_rows():
    async with ClerkClient(secret_key=instance_key, api_url=origin) as clerk:
        await clerk.m2m_tokens.revoke(opaque_id)
    await verifier.invalidate_everywhere(token_id=opaque_id)
    await verifier.invalidate_everywhere(token=second)
    await until(lambda fleet: fleet.applied == 3)

async def a_new_log():
    redis.Redis(port=int(port)).delete(*(f"{{{prefix}}}:log:{each}" for each in ("head", "rows")))
    await verifier.invalidate_everywhere(token=third)
    await until(lambda fleet: fleet.doubts == 1 and fleet.applied > 5)

async def in_child():
    await verifier.warm_up()
    await until(lambda fleet: fleet.in_sync)
    fleet = verifier.measure().fleet
    accepted = "".join(["01"[await accepts(each)] for each in tokens])
    await verifier.aclose()
    return f"{fleet.applied}/{fleet.doubts}/{accepted}"

loop = asyncio.new_event_loop()
loop.run_until_complete(before())
for while_forked in (more_rows, a_new_log):
    wait, go = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.read(wait, 1)
            print(asyncio.run(in_child()), flush=True)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    loop.run_until_complete(while_forked())
    os.write(go, b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
loop.run_until_complete(verifier.aclose())
"""


async def test_a_forked_child_applies_rows_written_since_the_fork(redis: Redis) -> None:
    emulator = Emulator(signing_key=SIGNING_KEY)
    callee = emulator.add_machine("callee")
    caller = emulator.add_machine("caller", may_call=[callee])
    opaque = emulator.mint_m2m_token(caller)
    jwts = [emulator.mint_m2m_token(caller, token_format="jwt").token for _ in range(4)]

    async with serve(emulator) as origin:
        goes_on, begins_anew = await output(
            SCRIPT,
            *(origin, callee.id, callee.secret_key, emulator.secret_key),
            *(str(redis.port), redis.prefix, FLEET_KEY),
            *(opaque.id, opaque.token, *jwts),
        )

    # The child continues at the parent's position. The opaque token, `first` and `second` are
    # refused.
    assert goes_on == "3/0/00011"
    # The log was replaced since the fork, so the child counts a doubt and reads it from the start.
    applied, doubts, accepted = begins_anew.split("/")
    assert int(applied) > 3
    assert (doubts, accepted) == ("1", "00001")
    emulator.close()
