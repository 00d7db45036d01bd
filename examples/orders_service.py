"""A service that is easy to test: the verifier is a parameter (None: from the environment).

    CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… uvicorn orders_service:app

Its tests are in test_example_service.py.
"""

from typing import Annotated

from fastapi import Depends, FastAPI

from clerk_m2m import MachineAuthMiddleware, MachineIdentity, Verifier, require_machine

Caller = Annotated[MachineIdentity, Depends(require_machine())]


def create_app(verifier: Verifier | None = None) -> FastAPI:
    app = FastAPI(title="orders")
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, exclude=["/healthz"])

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/orders")
    async def orders(caller: Caller) -> dict[str, str]:
        return {"orders_for": caller.machine_id}

    return app


app = create_app()
