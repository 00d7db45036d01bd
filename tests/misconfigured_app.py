"""The service that `test_bad_settings` runs on real servers, without any configuration."""

from __future__ import annotations

from starlette.applications import Starlette

from clerk_m2m import MachineAuthMiddleware

app = Starlette()
app.add_middleware(MachineAuthMiddleware)
