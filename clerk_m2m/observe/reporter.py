"""`Reporter`: one method for each kind of event.

Every event is passed to `on_event`. Refusals and calls to Clerk are added to the current span too.
Events that an operator must see go to the logger `clerk_m2m`, with their fields as `extra`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clerk_m2m.clock import MAX_SKEW, Clock, told_skew
from clerk_m2m.errors import (
    BackendAPIError,
    KeyRefusedError,
    RefusalError,
    ScopeDeniedError,
    VerificationUnavailableError,
)
from clerk_m2m.identity import Identity
from clerk_m2m.observe.events import Event, OnEvent, checked_on_event, cleaned
from clerk_m2m.observe.lines import Lines
from clerk_m2m.observe.spans import add_to_span

REFUSAL_PAUSE: Final = 1.0
STATE_PAUSE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The request that an event is about, with the values that its sender chose."""

    method: str
    path: str
    client: str | None
    user_agent: str | None


@dataclass(slots=True)
class _State:
    """The sources that fail now, with the start of the failure (monotonic s), and clock skew."""

    failing: dict[str, float] = field(default_factory=dict)
    skewed: bool = False


class Reporter:
    """Reports events to the log, to the span and to `on_event`.

    `on_event` is called on the event loop. Exceptions of it are logged and not raised.
    """

    def __init__(self, clock: Clock, *, on_event: OnEvent | None = None) -> None:
        self._clock = clock
        self._on_event = checked_on_event(on_event)
        self._lines = Lines(clock.monotonic)
        self._state = _State()

    # Requests

    def refused(
        self,
        refusal: RefusalError,
        request: Request,
        *,
        status: int,
        identity: Identity | None = None,
        only_reported: bool = False,
    ) -> None:
        """A request was refused with `status`, or would have been (`only_reported`)."""
        name = "would_refuse" if only_reported else "refusal"
        fields = _refusal_fields(refusal, request, status, identity)
        add_to_span(name, fields)
        self._tell(name, fields)
        level = (
            logging.WARNING if isinstance(refusal, VerificationUnavailableError) else logging.INFO
        )
        key = f"{name} {refusal.code}"
        extra = {"event_name": name} | fields
        did = "Would have refused" if only_reported else "Refused"

        def text() -> str:
            cause = f" ({fields['cause']})" if fields["cause"] else ""
            client, agent = fields["client"] or "unknown", fields["user_agent"] or "unknown"
            return (
                f"{did} {fields['method']} {fields['path']!r} with {status} {refusal.code}: "
                f"{fields['detail']}{cause} [client {client}, user agent {agent!r}]"
            )

        self._lines.write(key, level, text, extra, pause=REFUSAL_PAUSE)

    def key_refused(self, exc: BackendAPIError) -> None:
        """Clerk refused our own key, or there is none to send."""
        fields = {"code": exc.code, "status": exc.status, "cause": cleaned(exc)}
        self._tell("key_refused", fields)
        self._write(
            exc.code,
            logging.ERROR,
            f"Clerk refused this service's own key, or there is none: {cleaned(exc)} "
            "(Run `clerk-m2m doctor` in this environment to see which key it is.)",
            {"event_name": "key_refused"} | fields,
        )

    def refresh_failed(self, exc: BackendAPIError) -> None:
        """A cached verdict could not be refreshed before it expires."""
        self._write(
            f"refresh {exc.code}",
            logging.WARNING,
            f"Cached verdicts cannot be refreshed: {cleaned(exc)}",
            {"event_name": "refresh_failed", "code": exc.code, "cause": cleaned(exc)},
        )

    def stale_used(self, exc: Exception) -> None:
        """An expired verdict was used, because Clerk is down (`stale_if_error`)."""
        self._write(
            "stale verdict",
            logging.WARNING,
            f"Expired verdicts are used (stale_if_error): {cleaned(exc)}",
            {"event_name": "stale_used", "cause": cleaned(exc)},
        )

    def invalidated(self, **names: str | None) -> None:
        """Cached verdicts were invalidated; `names` never holds a token itself."""
        self._tell("invalidation", {key: value for key, value in names.items() if value})

    # Clerk

    def called(
        self,
        operation: str,
        *,
        seconds: float,
        status: int | None = None,
        error: str | None = None,
        sent: bool = True,
    ) -> None:
        """A call to Clerk ended, with the `status` of its answer or the `error` instead of one."""
        fields = {
            "operation": operation,
            "status": status,
            "error": error,
            "seconds": seconds,
            "sent": sent,
            "answered": status is not None,
        }
        add_to_span("clerk_call", fields)
        self._tell("clerk_call", fields)

    def breaker_opened(self, side: str, exc: BackendAPIError) -> None:
        """The breaker of one side opened because of `exc`."""
        fields = {"side": side, "code": exc.code, "cause": cleaned(exc)}
        self._change(
            "breaker_opened",
            logging.WARNING,
            f"Calls to Clerk about {side} are stopped for now: {cleaned(exc)}",
            fields,
        )

    def breaker_closed(self, side: str, seconds: float) -> None:
        """The breaker of one side closed after `seconds`."""
        self._change(
            "breaker_closed",
            logging.WARNING,
            f"Clerk answers again for calls about {side}, after {seconds:.0f} s.",
            {"side": side, "seconds": seconds},
        )

    def fetch_failed(
        self, what: str, exc: Exception, *, level: int = logging.WARNING, text: str = ""
    ) -> None:
        """The scope graph or the key set could not be fetched."""
        self._state.failing.setdefault(what, self._clock.monotonic())
        fields = {"source": what, "code": getattr(exc, "code", None), "cause": cleaned(exc)}
        self._tell("fetch_failed", fields)
        said = text or f"The {what} could not be fetched:"
        extra = {"event_name": "fetch_failed"} | fields
        self._write(f"{what} {fields['code']}", level, f"{said} {cleaned(exc)}", extra)

    def fetched(self, what: str) -> None:
        """The scope graph or the key set was fetched, or read."""
        since = self._state.failing.pop(what, None)
        if since is None:
            self._tell("fetched", {"source": what})
            return
        seconds = self._clock.monotonic() - since
        text = f"The {what} is read again, after {seconds:.0f} s."
        self._change("fetched", logging.WARNING, text, {"source": what, "seconds": seconds})

    def skew(self, skew: float) -> None:
        """This host's clock is `skew` s ahead of Clerk's; reports when a skew starts or ends."""
        was_off, is_off = self._state.skewed, abs(skew) > MAX_SKEW
        fields: dict[str, Any] = {"seconds": skew}
        if is_off != was_off:
            self._state.skewed = is_off
            self._tell("skew_began" if is_off else "skew_ended", fields)
        if is_off:
            said = (
                f"This host's clock is {told_skew(skew)}, by the Date of an answer. JWTs are "
                "checked with this host's clock, so valid ones may be refused and expired ones "
                "accepted. Synchronize the clock."
            )
            extra = {"event_name": "skew_began"} | fields
            self._write("clock skew", logging.WARNING, said, extra)
        elif was_off:
            said = f"This host's clock is within {MAX_SKEW:g} s of Clerk's again."
            extra = {"event_name": "skew_ended"} | fields
            self._write("end of clock skew", logging.INFO, said, extra)

    # The fleet

    def fleet_in_sync(self, seconds: float) -> None:
        """The fleet's log was read up to its end, after `seconds` without it."""
        text = f"The fleet's log is read again, after {seconds:.1f} s without it."
        self._change("fleet_in_sync", logging.INFO, text, {"seconds": seconds})

    def fleet_lost(self, exc: Exception) -> None:
        """The fleet's log cannot be read."""
        fields = {"code": getattr(exc, "code", None), "cause": cleaned(exc)}
        self._tell("fleet_lost", fields)
        text = f"Revocations by other services are not received until Redis answers: {cleaned(exc)}"
        self._write("fleet lost", logging.WARNING, text, {"event_name": "fleet_lost"} | fields)

    def fleet_doubted(self) -> None:
        """Rows of the fleet's log may have been lost."""
        text = (
            "Rows of the fleet's log may have been lost: Redis was emptied or evicted the log, a "
            "failover lost a part of it, or this process did not read it for too long. All "
            "credentials are verified again."
        )
        self._tell("fleet_doubted", {})
        self._write("fleet doubt", logging.ERROR, text, {"event_name": "fleet_doubted"})

    def fleet_row_refused(self) -> None:
        """A row of the fleet's log has no valid signature."""
        text = (
            "A row of the fleet's log was ignored: none of this service's fleet keys has signed it."
        )
        self._tell("fleet_row_refused", {})
        extra = {"event_name": "fleet_row_refused"}
        self._write("fleet row refused", logging.ERROR, text, extra)

    def fleet_write_failed(self, exc: BaseException) -> None:
        """A revocation that `watch()` received could not be written to the fleet's log."""
        fields = {"code": getattr(exc, "code", None), "cause": cleaned(exc)}
        self._tell("fleet_write_failed", fields)
        text = (
            "A revocation could not be sent to the other services. They may accept the revoked "
            f"credential until their own verdicts expire: {cleaned(exc)}"
        )
        extra = {"event_name": "fleet_write_failed"} | fields
        self._write("fleet write", logging.ERROR, text, extra)

    # Tokens that we mint

    def minted(self, *, seconds: float, token_id: str, caller: str, token_type: str) -> None:
        """A token was minted."""
        fields = {
            "token_id": token_id,
            "caller": caller,
            "token_type": token_type,
            "seconds": seconds,
        }
        self._tell("mint", fields)

    def mint_failed(self, exc: BaseException, text: str) -> None:
        """A mint failed; `text` is the reason, without a secret."""
        code = getattr(exc, "code", type(exc).__name__)
        fields = {"code": code, "cause": cleaned(text)}
        self._tell("mint_failed", fields)
        level = logging.ERROR if isinstance(exc, KeyRefusedError) else logging.WARNING
        said = f"No token could be minted: {cleaned(text)}"
        self._write(f"mint {code}", level, said, {"event_name": "mint_failed"} | fields)

    def token_rejected(self, callee: str, status: int, *, replaced: bool) -> None:
        """A callee, named by its origin, answered 401 or 403 to a call with our token."""
        fields = {"callee": callee, "status": status, "replaced": replaced}
        self._tell("token_rejected", fields)
        did = "It was replaced" if replaced else "It was not replaced"
        self._write(
            f"rejected {status} {callee}",
            logging.WARNING,
            f"{callee} answered {status} to a call with this machine's token. {did}. "
            "Run `clerk-m2m explain` to learn why.",
            {"event_name": "token_rejected"} | fields,
        )

    def token_withheld(self, callee: str, first: str) -> None:
        """A request was sent without the token, because its extensions are another request's."""
        fields = {"callee": callee, "first": first}
        self._tell("token_withheld", fields)
        self._write(
            f"withheld {callee}",
            logging.WARNING,
            f"A call to {callee} was sent without the token: its `extensions`, or the request "
            f"itself, went to {first} before, as after a redirect. To send the token there, build "
            "a new request.",
            {"event_name": "token_withheld"} | fields,
        )

    def flush(self) -> None:
        """Write the counts of suppressed lines."""
        self._lines.flush()

    def _change(self, name: str, level: int, text: str, fields: Mapping[str, Any]) -> None:
        """Report a change of state; the log lines are limited, in case it changes often."""
        self._tell(name, fields)
        key = f"{name} {fields.get('side') or fields.get('source')}"
        extra = {"event_name": name} | dict(fields)
        self._lines.write(key, level, lambda: text, extra, pause=REFUSAL_PAUSE)

    def _write(self, key: str, level: int, text: str, fields: Mapping[str, Any]) -> None:
        self._lines.write(key, level, lambda: text, fields, pause=STATE_PAUSE)

    def _tell(self, name: str, fields: Mapping[str, Any]) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(Event(name=name, instant=self._clock.wall(), fields=dict(fields)))
        except Exception as exc:  # noqa: BLE001  the user's function may raise anything
            # Log only the type: the text of a user's exception may hold a secret.
            kind = type(exc).__name__
            said = f"on_event raised {kind} at the event {name}. Fix that function."
            self._write(f"on_event {kind}", logging.ERROR, said, {"event_name": "on_event_failed"})


def _refusal_fields(
    refusal: RefusalError, request: Request, status: int, identity: Identity | None
) -> dict[str, Any]:
    decision = refusal.decision if isinstance(refusal, ScopeDeniedError) else None
    holder = identity or refusal.holder
    token_type = refusal.token_class if holder is None else holder.token_type
    return {
        "code": refusal.code,
        "reason": None if decision is None else str(decision.reason),
        "detail": cleaned(refusal.detail),
        "cause": cleaned(refusal.__cause__) if refusal.__cause__ else None,
        "status": status,
        "caller": None if holder is None else holder.subject,
        "callee": None if decision is None else decision.callee,
        "token_id": None if holder is None else holder.token_id,
        "token_type": None if token_type is None else str(token_type),
        "source": refusal.source,
        "method": cleaned(request.method),
        "path": cleaned(request.path),
        "client": None if request.client is None else cleaned(request.client),
        "user_agent": None if request.user_agent is None else cleaned(request.user_agent),
    }
