"""Drawings of a scope graph: pure functions from a `DrawnGraph` to text. No I/O, no settings.

`labels` makes any machine's name safe to show. `drawn_graph` is the input of all drawings. `reach`
computes which machines are reached through others. `arrangement` places related machines side by
side. The drawings use these: `tree` and `text_matrix` for a terminal, `svg_matrix` and `svg_layers`
for a browser, `mermaid` for a page in Markdown.
"""
