"""The code blocks of docs/fleet.md work."""

from __future__ import annotations

import asyncio
import sys

from test_docs import ROOT, blocks

from harness import Instance

from .services import FLEET_KEY, Redis


async def test_the_code_blocks_of_the_page_run_as_one_script(
    instance: Instance, redis: Redis
) -> None:
    script = "\n".join(blocks(ROOT / "docs" / "fleet.md", "python"))
    script += (
        "\nimport asyncio\n"
        "async def main() -> None:\n"
        "    await sign_out('mt_' + '0' * 32)\n"
        "    await verifier.aclose()\n"
        "asyncio.run(main())\n"
    )
    environ = instance.environ | {
        "CLERK_M2M_FLEET_URL": redis.url,
        "CLERK_M2M_FLEET_KEY": FLEET_KEY,
    }

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", script, env=environ
    )

    assert await process.wait() == 0
    assert redis.call("XLEN", "{clerk_m2m}:log:rows") == 1
    redis.call("DEL", "{clerk_m2m}:log:rows", "{clerk_m2m}:log:head")
