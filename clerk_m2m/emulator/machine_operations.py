"""The operations on machines, their secret keys, their scopes, and the key set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from clerk_m2m.emulator import machines
from clerk_m2m.emulator.checks import Body, Number, Query, Text, Texts
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import (
    Answer,
    InvalidField,
    Refusal,
    json_answer,
    not_found,
    text_answer,
)

if TYPE_CHECKING:
    from clerk_m2m.emulator.instance import Call

NAME = Text(min_length=1, max_length=255)
TOKEN_TTL = Number(minimum=1, maximum=machines.MAX_TOKEN_TTL, whole=True)

# Not only a default: an order by a client's own words would be an injection.
ORDERS = {
    "created_at": "created_at, seq",
    "+created_at": "created_at, seq",
    "-created_at": "created_at DESC, seq DESC",
    "name": "name, seq",
    "+name": "name, seq",
    "-name": "name DESC, seq DESC",
}


def list_machines(call: Call) -> Answer:
    """ListMachines."""
    # A plus sign that was not percent-encoded arrives as a space.
    order = call.query.get("order_by", "-created_at").replace(" ", "+", 1)
    if order not in ORDERS:
        message = "order_by must be name or created_at, after + or -"
        raise InvalidField("order_by", "form_param_value_invalid", message)
    page, total = machines.list_machines(
        call.db,
        query=call.query.get("query", ""),
        order_by=ORDERS[order],
        limit=call.query.get("limit", 10),
        offset=call.query.get("offset", 0),
    )
    instance_id = call.instance.instance_id
    data = ",".join(machines.machine_json(call.db, machine, instance_id) for machine in page)
    return text_answer(f'{{"data":[{data}],"total_count":{total}}}')


def create_machine(call: Call) -> Answer:
    """CreateMachine."""
    machine = machines.insert_machine(
        call.db,
        name=call.body["name"],
        default_token_ttl=call.body.get("default_token_ttl", machines.DEFAULT_TOKEN_TTL),
        now=call.now,
    )
    scoped = [_scoped_machine(call, item) for item in call.body.get("scoped_machines", [])]
    machines.add_edges(call.db, machine, scoped, call.now)
    body = machines.machine_json(call.db, machine, call.instance.instance_id)
    secret = json.dumps(machines.secret_key(call.db, machine))
    return text_answer(f'{body[:-1]},"secret_key":{secret}}}')


def _scoped_machine(call: Call, machine_id: str) -> machines.Machine:
    # The contract lists no 404 for CreateMachine.
    machine = machines.find_machine(call.db, machine_id)
    if machine is None:
        name = "scoped_machines"
        raise InvalidField(name, "form_param_value_invalid", f"{name} names an unknown machine")
    return machine


def get_machine(call: Call) -> Answer:
    """GetMachine."""
    machine = machines.get_machine(call.db, call.path["machine_id"])
    return text_answer(machines.machine_json(call.db, machine, call.instance.instance_id))


def update_machine(call: Call) -> Answer:
    """UpdateMachine."""
    machine = machines.get_machine(call.db, call.path["machine_id"])
    if call.body:
        machines.update_machine(
            call.db,
            machine,
            name=call.body.get("name", machine.name),
            default_token_ttl=call.body.get("default_token_ttl", machine.default_token_ttl),
            now=call.now,
        )
    return get_machine(call)


def delete_machine(call: Call) -> Answer:
    """DeleteMachine."""
    machine = machines.get_machine(call.db, call.path["machine_id"])
    machines.delete_machine(call.db, machine)
    return json_answer({"object": "machine", "id": machine.id, "deleted": True})


def get_secret_key(call: Call) -> Answer:
    """GetMachineSecretKey."""
    machine = machines.get_machine(call.db, call.path["machine_id"])
    secret = machines.secret_key(call.db, machine)
    return json_answer({"object": "machine_secret_key", "secret": secret})


def rotate_secret_key(call: Call) -> Answer:
    """RotateMachineSecretKey."""
    machine = machines.get_machine(call.db, call.path["machine_id"])
    grace = call.body["previous_token_ttl"]
    secret = machines.replace_secret_key(call.db, machine, secret=None, grace=grace, now=call.now)
    return json_answer({"object": "machine_secret_key", "secret": secret})


def create_scope(call: Call) -> Answer:
    """CreateMachineScope."""
    caller = machines.get_machine(call.db, call.path["machine_id"])
    callee = machines.get_machine(call.db, call.body["to_machine_id"])
    if machines.has_edge(call.db, caller, callee):
        raise Refusal(409, "duplicate_record", "This machine scope already exists")
    machines.add_edges(call.db, caller, [callee], call.now)
    return json_answer(
        {
            "object": "machine_scope",
            "from_machine_id": caller.id,
            "to_machine_id": callee.id,
            "created_at": call.now,
        }
    )


def delete_scope(call: Call) -> Answer:
    """DeleteMachineScope."""
    caller = machines.get_machine(call.db, call.path["machine_id"])
    callee = machines.get_machine(call.db, call.path["other_machine_id"])
    if not machines.remove_edge(call.db, caller, callee):
        raise not_found("Machine scope")
    return json_answer(
        {
            "object": "machine_scope",
            "from_machine_id": caller.id,
            "to_machine_id": callee.id,
            "deleted": True,
        }
    )


def get_jwks(call: Call) -> Answer:
    """GetJWKS; also as the instance's Frontend API publishes it, to anyone."""
    return json_answer({"keys": [key.jwk() for key in call.instance.keys(call.db)]})


OPERATIONS = (
    Operation(
        id="GetJWKS",
        method="GET",
        path="/jwks",
        key="instance",
        run=get_jwks,
        makes_keys=True,
    ),
    Operation(
        id="GetFrontendJWKS",
        method="GET",
        path="/.well-known/jwks.json",
        key="none",
        run=get_jwks,
        makes_keys=True,
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
        run=get_secret_key,
    ),
    Operation(
        id="RotateMachineSecretKey",
        method="POST",
        path="/machines/{machine_id}/secret_key/rotate",
        key="instance",
        run=rotate_secret_key,
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
        run=create_scope,
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
        run=delete_scope,
    ),
)
