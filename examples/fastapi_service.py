"""A FastAPI service: machines may read orders, API keys with `orders:write` may place them.

    CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… CLERK_SECRET_KEY=sk_… \
    CLERK_M2M_ACCEPTS=m2m_token,api_key uvicorn fastapi_service:app
"""

from typing import Annotated

from fastapi import Depends, FastAPI

from clerk_m2m import (
    ApiKeyIdentity,
    MachineAuthMiddleware,
    MachineIdentity,
    require_api_key,
    require_machine,
)

app = FastAPI(title="orders")
app.add_middleware(MachineAuthMiddleware, exclude=["/healthz", "/openapi.json"])

Caller = Annotated[MachineIdentity, Depends(require_machine())]
Buyer = Annotated[ApiKeyIdentity, Depends(require_api_key(scopes=["orders:write"]))]


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/orders")
async def orders(caller: Caller) -> dict[str, str]:
    return {"orders_for": caller.machine_id}


@app.post("/orders", status_code=201)
async def place_order(buyer: Buyer) -> dict[str, str | None]:
    return {"placed_by": buyer.user_id or buyer.org_id}
