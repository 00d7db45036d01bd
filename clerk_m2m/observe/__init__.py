"""What an operator sees: counters of what was done.

Counters only grow; whoever exports them reads them. Nothing in a request waits for an exporter. May
import nothing of the package.
"""
