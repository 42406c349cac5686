"""From sources of any shape to tokens: reading, parsing, ids, templates, tokenization.

sources.py finds files and reading.py reads their rows (files/ has a module per format). columns.py
and shapes.py make examples of them (turns.py of messages, tools.py of calls, trees.py of rows that
are messages). parsing.py and ingest.py run this on Ray, templates.py and tokenization.py make
tokens.
"""
