"""What is known, for how long, and who is asking.

`verdict` is what a look-up comes to. `cache` keeps verdicts for their lifetime. `single_flight`
lets concurrent requests for one key share one look-up. `invalidations` is the table of what must be
asked again. Who is asked is not known here: a look-up is a function that the caller gives. May
import the vocabulary and `observe`.
"""
