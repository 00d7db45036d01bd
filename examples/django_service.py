"""A Django service on ASGI: machines may read orders, API keys with `orders:write` may place them.

    CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… CLERK_SECRET_KEY=sk_… \
    CLERK_M2M_ACCEPTS=m2m_token,api_key uvicorn django_service:app

`MachineAuthMiddleware` wraps the Django app. Django turns an exception of a view into a 500, so the
Django middleware `AnswerRefusals` answers when a guard refuses.
"""

from collections.abc import Callable

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.urls import path

from clerk_m2m import (
    MachineAuthMiddleware,
    RefusalError,
    refusal_answer,
    require_api_key,
    require_machine,
)

any_machine = require_machine()
buyer = require_api_key(scopes=["orders:write"])


class AnswerRefusals:
    """Sends the answer (401, 403, 503) when a guard refuses. It is listed in `MIDDLEWARE`."""

    sync_capable, async_capable = True, False

    def __init__(self, get_response: Callable[[ASGIRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: ASGIRequest) -> HttpResponseBase:
        return self._get_response(request)

    def process_exception(
        self, request: ASGIRequest, exception: Exception
    ) -> HttpResponseBase | None:
        if not isinstance(exception, RefusalError):
            return None
        status, headers, body = refusal_answer(exception)
        return HttpResponse(body, status=status, headers=headers)


def orders(request: ASGIRequest) -> HttpResponseBase:
    if request.method == "POST":
        key = buyer.check(request.scope)
        return JsonResponse({"placed_by": key.user_id or key.org_id}, status=201)
    return JsonResponse({"orders_for": any_machine.check(request.scope).machine_id})


def healthz(request: ASGIRequest) -> HttpResponseBase:
    return JsonResponse({"status": "ok"})


urlpatterns = [path("orders", orders), path("healthz", healthz)]

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.AnswerRefusals"]
    )

app = MachineAuthMiddleware(get_asgi_application(), exclude=["/healthz"])
