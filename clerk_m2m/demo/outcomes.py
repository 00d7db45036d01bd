"""The expected outcomes, by name."""

from __future__ import annotations

from typing import Final

from clerk_m2m.demo.report import Expected

LET_IN: Final = Expected(status=200)
LET_IN_PAID: Final = Expected(status=200, paid=1)
UNKNOWN: Final = Expected(status=401, code="token_invalid")
UNKNOWN_PAID: Final = Expected(status=401, code="token_invalid", paid=1)
WRONG_TYPE: Final = Expected(status=401, code="token_type_not_accepted")
NO_EDGE: Final = Expected(status=403, code="scope_denied")
NOT_FOUND_OUT: Final = Expected(status=503, code="verification_unavailable")
