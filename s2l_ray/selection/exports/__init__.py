"""The chosen examples in the formats of other programs."""
