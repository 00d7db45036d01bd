"""What an operator sees: counters of what was done, events, and log lines.

Counters only grow; whoever exports them reads them. A `Reporter` is given to each part that has
something to tell, and tells it to the log, to the current span and to the user's `on_event`. A
cached verdict is a counter only. Nothing in a request waits for an exporter. May import only the
vocabulary.
"""

from clerk_m2m.observe.events import Event, OnEvent

__all__ = ["Event", "OnEvent"]
