"""A FastAPI WebSocket: a caller without access is refused before the connection is accepted.

CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… uvicorn websocket_service:app
"""

from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket

from clerk_m2m import MachineAuthMiddleware, MachineIdentity, require_machine

app = FastAPI(title="prices")
app.add_middleware(MachineAuthMiddleware)


@app.websocket("/prices")
async def prices(
    websocket: WebSocket, caller: Annotated[MachineIdentity, Depends(require_machine())]
) -> None:
    await websocket.accept()
    await websocket.send_json({"prices_for": caller.machine_id})
    await websocket.close()
