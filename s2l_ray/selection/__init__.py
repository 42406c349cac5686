"""Selectors, the exact sharded cut, the subset and its exports."""
