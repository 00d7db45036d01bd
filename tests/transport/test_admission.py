"""Which calls are sent, wait or are refused: the rules, without an event loop."""

from __future__ import annotations

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clerk_m2m.transport.admission import (
    KNOWN,
    LEAST_RATE,
    MOST_RATE,
    START_RATE,
    Admission,
    Priority,
    State,
    Ticket,
    UnknownRate,
)

SLOTS = 20
UNLIMITED = UnknownRate(1e9)


def admission(slots: int = SLOTS, unknown_rate: UnknownRate | None = UNLIMITED) -> Admission:
    """The calls of a service with default settings; the rate of unknown keys does not matter."""
    return Admission(slots=slots, patience=0.5, unknown_rate=unknown_rate)


def enter(calls: Admission, priority: Priority = Priority.STRANGER, now: float = 0.0) -> Ticket:
    ticket = Ticket(priority)
    calls.enter(ticket, now)
    return ticket


def enter_many(
    calls: Admission, count: int, priority: Priority = Priority.STRANGER
) -> list[Ticket]:
    return [enter(calls, priority) for _ in range(count)]


def states(tickets: list[Ticket]) -> list[State]:
    return [ticket.state for ticket in tickets]


def test_one_slot_in_twenty_is_reserved_for_known_keys() -> None:
    calls = admission()
    unknown = enter_many(calls, 20)

    assert states(unknown) == [State.OUT] * 19 + [State.WAITING]
    assert enter(calls, Priority.REFRESH).state is State.OUT
    assert enter(calls, Priority.KEPT).state is State.WAITING


def test_without_unknown_rate_no_slot_is_reserved() -> None:
    calls = admission(unknown_rate=None)

    assert states(enter_many(calls, 20, Priority.RECENT)) == [State.OUT] * 20


def test_a_free_slot_goes_to_the_oldest_call_of_the_highest_priority() -> None:
    calls = admission(slots=1, unknown_rate=None)
    out = enter(calls, Priority.RECENT)
    waiting = [
        enter(calls, priority)
        for priority in (Priority.RECENT, Priority.REFRESH, Priority.KEPT, Priority.KEPT)
    ]

    order = []
    for _ in waiting:
        ended = next(each for each in (out, *waiting) if each.state is State.OUT)
        calls.done(ended, service_time=0.1)
        order += [each for each in waiting if each.state is State.OUT]
    recent, refresh, first, second = waiting
    assert order == [first, second, refresh, recent]


def test_calls_beyond_what_is_answered_within_patience_are_refused() -> None:
    calls = admission()  # 20 slots x 0.5 s / 0.1 s
    tickets = enter_many(calls, 19 + 100 + 1)

    assert states(tickets) == [State.OUT] * 19 + [State.WAITING] * 100 + [State.REFUSED]


def test_a_call_of_a_higher_priority_displaces_the_newest_of_the_lowest() -> None:
    calls = admission()
    tickets = enter_many(calls, 19 + 100)
    enter(calls, Priority.KEPT)
    kept = enter(calls, Priority.KEPT)

    assert kept.state is State.WAITING
    assert states(tickets[-2:]) == [State.WAITING, State.REFUSED]


def test_a_slower_upstream_shortens_the_queue_by_refusing_the_newest() -> None:
    calls = admission()
    tickets = enter_many(calls, 19 + 100)
    for _ in range(30):
        out = next(each for each in tickets if each.state is State.OUT)
        calls.done(out, service_time=1.0)

    assert 0.7 < calls.service_time < 1.0
    assert 0 < calls.waiting <= 0.5 * SLOTS / calls.service_time
    came = {state: [n for n, each in enumerate(tickets) if each.state is state] for state in State}
    assert max(came[State.WAITING]) < min(came[State.REFUSED])


def test_a_call_without_an_answer_does_not_change_the_service_time() -> None:
    calls = admission()
    for ticket in enter_many(calls, 19):
        calls.done(ticket, service_time=None)

    assert calls.service_time == 0.1


def test_a_cancelled_call_returns_its_place_and_its_charge() -> None:
    calls = admission(slots=2, unknown_rate=UnknownRate(14.0))
    out, *waiting = enter_many(calls, 10)
    assert states([out, *waiting, enter(calls)]) == [
        State.OUT,
        *[State.WAITING] * 9,
        State.REFUSED,
    ]
    for ticket in waiting:
        calls.leave(ticket)

    assert (calls.waiting, calls.out) == (0, 1)
    assert states(enter_many(calls, 10)) == [State.WAITING] * 9 + [State.REFUSED]


def test_a_call_refused_for_lack_of_room_returns_its_charge() -> None:
    rate = UnknownRate(200.0)
    calls = admission(unknown_rate=rate)
    enter_many(calls, 140)

    assert sum(rate.take(0.0, returning=True) for _ in range(200)) == 200 - (19 + 100)


def test_a_refresh_that_gets_a_waiter_goes_before_other_refreshes() -> None:
    calls = admission(slots=1, unknown_rate=None)
    out = enter(calls, Priority.REFRESH)
    first, second = enter_many(calls, 2, Priority.REFRESH)
    calls.change(second, Priority.KEPT)
    calls.done(out, service_time=0.1)

    assert states([first, second]) == [State.WAITING, State.OUT]


# The rate of calls about unknown keys


def test_a_fixed_rate_limits_only_calls_about_unknown_keys() -> None:
    calls = admission(unknown_rate=UnknownRate(4.0))

    assert states(enter_many(calls, 4)) == [State.OUT] * 3 + [State.REFUSED]
    assert enter(calls, Priority.RECENT).state is State.OUT
    assert enter(calls, Priority.KEPT).state is State.OUT


def test_the_bucket_holds_the_calls_of_one_second() -> None:
    rate = UnknownRate(20.0)
    now = 100.0
    assert sum(rate.take(now, returning=True) for _ in range(100)) == 20
    assert sum(rate.take(now + 0.25, returning=True) for _ in range(100)) == 5
    assert sum(rate.take(now + 60.0, returning=True) for _ in range(100)) == 20


def test_a_quarter_of_the_rate_is_reserved_for_returning_keys() -> None:
    calls = admission(unknown_rate=UnknownRate(20.0))
    unknown = enter_many(calls, 100)
    returning = enter_many(calls, 100, Priority.RETURNING)

    let_through = {State.OUT, State.WAITING}
    assert sum(each.state in let_through for each in unknown) == 15
    assert sum(each.state in let_through for each in returning) == 5


def test_in_the_long_run_no_more_calls_than_the_rate_are_sent() -> None:
    rate = UnknownRate(20.0)

    let_through = sum(rate.take(number / 300) for number in range(300 * 60))
    assert 20 * 59 <= let_through <= 20 * 61


def test_an_adaptive_rate_halves_on_a_429_and_grows_without() -> None:
    rate = UnknownRate()
    assert rate.rate(0.0) == START_RATE
    rate.slow_down(0.0)
    assert rate.rate(0.0) == START_RATE / 2
    assert rate.rate(10.0) == START_RATE / 2 + 10
    assert rate.rate(1000.0) == MOST_RATE
    for _ in range(20):
        rate.slow_down(1000.0)
    assert rate.rate(1000.0) == LEAST_RATE


def test_a_fixed_rate_does_not_adapt() -> None:
    rate = UnknownRate(7.0)
    rate.slow_down(0.0)

    assert rate.rate(100.0) == 7.0


# Random sequences of events, compared with a simple model


@settings(max_examples=150, stateful_step_count=40)
class Calls(RuleBasedStateMachine):
    """The model is a list of tickets in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = UnknownRate(6.0)
        self.calls = Admission(slots=4, patience=0.2, unknown_rate=self.rate)
        self.now = 0.0
        self.tickets: list[Ticket] = []

    def of(self, state: State) -> list[Ticket]:
        return [each for each in self.tickets if each.state is state]

    @rule(priority=strategies.sampled_from(Priority))
    def a_call_comes(self, priority: Priority) -> None:
        ticket = Ticket(priority)
        changed = self.calls.enter(ticket, self.now)
        self.tickets.append(ticket)
        assert all(each.state in (State.OUT, State.REFUSED) for each in changed)
        if ticket.state is State.OUT:
            higher = [each for each in self.of(State.WAITING) if each.priority <= priority]
            assert not higher or (priority in KNOWN and not set(KNOWN) & {higher[0].priority})

    @precondition(lambda self: self.of(State.OUT))
    @rule(data=strategies.data(), seconds=strategies.sampled_from([None, 0.01, 0.1, 2.0]))
    def a_call_ends(self, data: strategies.DataObject, seconds: float | None) -> None:
        before = self.of(State.WAITING)
        ticket = data.draw(strategies.sampled_from(self.of(State.OUT)))
        self.calls.done(ticket, service_time=seconds)
        for let_out in (each for each in before if each.state is State.OUT):
            # No call of a higher priority still waits, and no earlier call of the same priority.
            assert not [
                each
                for each in self.of(State.WAITING)
                if each.priority < let_out.priority
                or (
                    each.priority == let_out.priority
                    and self.tickets.index(each) < self.tickets.index(let_out)
                )
            ]

    @precondition(lambda self: self.of(State.WAITING))
    @rule(data=strategies.data())
    def a_waiter_leaves(self, data: strategies.DataObject) -> None:
        self.calls.leave(data.draw(strategies.sampled_from(self.of(State.WAITING))))

    @rule(seconds=strategies.sampled_from([0.1, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.calls.out == len(self.of(State.OUT)) <= 4
        assert self.calls.waiting == len(self.of(State.WAITING))

    @invariant()
    def no_more_wait_than_are_answered_in_time(self) -> None:
        assert self.calls.waiting <= max(0.0, 0.2 * 4 / self.calls.service_time)

    @invariant()
    def nobody_waits_beside_a_slot_that_is_free_for_him(self) -> None:
        for each in self.of(State.WAITING):
            assert self.calls.out >= (4 if each.priority in KNOWN else 3)


TestCalls = Calls.TestCase
