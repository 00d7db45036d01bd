"""The operations on machines, their secret keys, their scopes, and the key set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from clerk_m2m.emulator import machines
from clerk_m2m.emulator.checks import Body, Number, Query, Text, Texts
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import (
    InvalidField,
    Refusal,
    Response,
    json_response,
    not_found,
    text_response,
)

if TYPE_CHECKING:
    from clerk_m2m.emulator.instance import CheckedRequest

NAME = Text(min_length=1, max_length=255)
TOKEN_TTL = Number(minimum=1, maximum=machines.MAX_TOKEN_TTL, whole=True)

# Only these orders are accepted: a client's text in ORDER BY would be an SQL injection.
ORDERS = {
    "created_at": "created_at, seq",
    "+created_at": "created_at, seq",
    "-created_at": "created_at DESC, seq DESC",
    "name": "name, seq",
    "+name": "name, seq",
    "-name": "name DESC, seq DESC",
}


def list_machines(request: CheckedRequest) -> Response:
    """ListMachines."""
    # A plus sign that was not percent-encoded arrives as a space.
    order = request.query.get("order_by", "-created_at").replace(" ", "+", 1)
    if order not in ORDERS:
        message = "order_by must be name or created_at, after + or -"
        raise InvalidField("order_by", "form_param_value_invalid", message)
    page, total = machines.select_machines(
        request.db,
        query=request.query.get("query", ""),
        order_by=ORDERS[order],
        limit=request.query.get("limit", 10),
        offset=request.query.get("offset", 0),
    )
    instance_id = request.instance.instance_id
    data = ",".join(machines.machine_json(request.db, machine, instance_id) for machine in page)
    return text_response(f'{{"data":[{data}],"total_count":{total}}}')


def create_machine(request: CheckedRequest) -> Response:
    """CreateMachine."""
    machine = machines.insert_machine(
        request.db,
        name=request.body["name"],
        default_token_ttl=request.body.get("default_token_ttl", machines.DEFAULT_TOKEN_TTL),
        now=request.now,
    )
    scoped = [_scoped_machine(request, item) for item in request.body.get("scoped_machines", [])]
    machines.add_edges(request.db, machine, scoped, request.now)
    body = machines.machine_json(request.db, machine, request.instance.instance_id)
    secret = json.dumps(machines.secret_key(request.db, machine))
    return text_response(f'{body[:-1]},"secret_key":{secret}}}')


def _scoped_machine(request: CheckedRequest, machine_id: str) -> machines.MachineRow:
    # The contract lists no 404 for CreateMachine.
    machine = machines.find_machine(request.db, machine_id)
    if machine is None:
        name = "scoped_machines"
        raise InvalidField(name, "form_param_value_invalid", f"{name} names an unknown machine")
    return machine


def get_machine(request: CheckedRequest) -> Response:
    """GetMachine."""
    machine = machines.existing_machine(request.db, request.path["machine_id"])
    return text_response(machines.machine_json(request.db, machine, request.instance.instance_id))


def update_machine(request: CheckedRequest) -> Response:
    """UpdateMachine."""
    machine = machines.existing_machine(request.db, request.path["machine_id"])
    if request.body:
        machines.change_machine(
            request.db,
            machine,
            name=request.body.get("name", machine.name),
            default_token_ttl=request.body.get("default_token_ttl", machine.default_token_ttl),
            now=request.now,
        )
    return get_machine(request)


def delete_machine(request: CheckedRequest) -> Response:
    """DeleteMachine."""
    machine = machines.existing_machine(request.db, request.path["machine_id"])
    machines.remove_machine(request.db, machine)
    return json_response({"object": "machine", "id": machine.id, "deleted": True})


def get_machine_secret_key(request: CheckedRequest) -> Response:
    """GetMachineSecretKey."""
    machine = machines.existing_machine(request.db, request.path["machine_id"])
    secret = machines.secret_key(request.db, machine)
    return json_response({"object": "machine_secret_key", "secret": secret})


def rotate_machine_secret_key(request: CheckedRequest) -> Response:
    """RotateMachineSecretKey."""
    machine = machines.existing_machine(request.db, request.path["machine_id"])
    grace = request.body["previous_token_ttl"]
    secret = machines.replace_secret_key(
        request.db, machine, secret=None, grace=grace, now=request.now
    )
    return json_response({"object": "machine_secret_key", "secret": secret})


def create_machine_scope(request: CheckedRequest) -> Response:
    """CreateMachineScope."""
    caller = machines.existing_machine(request.db, request.path["machine_id"])
    callee = machines.existing_machine(request.db, request.body["to_machine_id"])
    if machines.has_edge(request.db, caller, callee):
        raise Refusal(409, "duplicate_record", "This machine scope already exists")
    machines.add_edges(request.db, caller, [callee], request.now)
    return json_response(
        {
            "object": "machine_scope",
            "from_machine_id": caller.id,
            "to_machine_id": callee.id,
            "created_at": request.now,
        }
    )


def delete_machine_scope(request: CheckedRequest) -> Response:
    """DeleteMachineScope."""
    caller = machines.existing_machine(request.db, request.path["machine_id"])
    callee = machines.existing_machine(request.db, request.path["other_machine_id"])
    if not machines.remove_edge(request.db, caller, callee):
        raise not_found("Machine scope")
    return json_response(
        {
            "object": "machine_scope",
            "from_machine_id": caller.id,
            "to_machine_id": callee.id,
            "deleted": True,
        }
    )


def get_jwks(request: CheckedRequest) -> Response:
    """GetJWKS. The instance's Frontend API publishes the same key set to anyone."""
    return json_response({"keys": [key.jwk() for key in request.instance.keys(request.db)]})


OPERATIONS = (
    Operation(
        id="GetJWKS",
        method="GET",
        path="/jwks",
        key="instance",
        run=get_jwks,
    ),
    Operation(
        id="GetFrontendJWKS",
        method="GET",
        path="/.well-known/jwks.json",
        key="none",
        run=get_jwks,
    ),
    Operation(
        id="ListMachines",
        method="GET",
        path="/machines",
        key="instance",
        run=list_machines,
        query=Query(
            fields={
                "limit": Number(minimum=1, maximum=500, whole=True),
                "offset": Number(minimum=0, whole=True),
                "query": Text(),
                "order_by": Text(),
            }
        ),
        invalid_status=422,
    ),
    Operation(
        id="CreateMachine",
        method="POST",
        path="/machines",
        key="instance",
        run=create_machine,
        body=Body(
            fields={
                "name": NAME,
                "scoped_machines": Texts(max_items=machines.MAX_EDGES),
                "default_token_ttl": TOKEN_TTL,
            },
            required=("name",),
            closed=False,
            optional=True,
        ),
        invalid_status=422,
    ),
    Operation(
        id="GetMachine",
        method="GET",
        path="/machines/{machine_id}",
        key="instance",
        run=get_machine,
    ),
    Operation(
        id="UpdateMachine",
        method="PATCH",
        path="/machines/{machine_id}",
        key="instance",
        run=update_machine,
        body=Body(
            fields={"name": NAME, "default_token_ttl": TOKEN_TTL}, closed=False, optional=True
        ),
        invalid_status=422,
    ),
    Operation(
        id="DeleteMachine",
        method="DELETE",
        path="/machines/{machine_id}",
        key="instance",
        run=delete_machine,
    ),
    Operation(
        id="GetMachineSecretKey",
        method="GET",
        path="/machines/{machine_id}/secret_key",
        key="instance",
        run=get_machine_secret_key,
    ),
    Operation(
        id="RotateMachineSecretKey",
        method="POST",
        path="/machines/{machine_id}/secret_key/rotate",
        key="instance",
        run=rotate_machine_secret_key,
        body=Body(
            fields={"previous_token_ttl": Number(minimum=0, maximum=28_800, whole=True)},
            required=("previous_token_ttl",),
            closed=False,
        ),
        invalid_status=422,
    ),
    Operation(
        id="CreateMachineScope",
        method="POST",
        path="/machines/{machine_id}/scopes",
        key="instance",
        run=create_machine_scope,
        body=Body(
            fields={"to_machine_id": Text()},
            required=("to_machine_id",),
            closed=False,
            optional=True,
        ),
        invalid_status=422,
    ),
    Operation(
        id="DeleteMachineScope",
        method="DELETE",
        path="/machines/{machine_id}/scopes/{other_machine_id}",
        key="instance",
        run=delete_machine_scope,
    ),
)
