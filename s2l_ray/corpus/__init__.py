"""Sources, row shapes, parsing, templates, tokenization, the demo corpus."""
