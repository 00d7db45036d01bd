"""The scope graph: which machine may call which, and where its edges come from.

`scope_graph` is the graph as a value, read from a mapping or from TOML. `document` holds the rules
of that TOML, which the command line edits. `source` is the protocol that the verifier uses. `file`
and `live` are sources whose edges change. An edge `caller -> callee` means that the caller may call
the callee. May import `lookups`, `backend_api` and the vocabulary.
"""
