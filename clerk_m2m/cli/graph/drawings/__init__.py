"""Drawings of a scope graph: pure functions from a `DrawnGraph` to text. No I/O, no settings.

`labels` makes any machine's name safe to show, `drawn_graph` is the value that all drawings take,
`reach` tells who gets to whom through others, and `arrangement` puts machines that belong together
side by side. On these stand the drawings: `tree` and `text_matrix` for a terminal, `svg_matrix` and
`svg_layers` for a browser, `mermaid` for a page in Markdown.
"""
