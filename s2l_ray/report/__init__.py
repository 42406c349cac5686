"""One self-contained page per run, comparison and diagnosis."""
