"""The Arrow schemas of all artifacts of a run directory."""

from __future__ import annotations

import pyarrow as pa

TURNS = pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))


# Examples: the corpus, its held-out part, and (with more columns) a subset.
EXAMPLES = pa.schema(
    [
        ("example_id", pa.int64()),
        ("source", pa.string()),
        ("turns", TURNS),
        ("file", pa.string()),  # where the row came from
        ("row", pa.int64()),  # its line, counted from 1 (its number, in files without lines)
    ]
)


REJECTED = pa.schema(
    [("raw", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)


TOKENS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),  # true where the token is a label
        ("num_label_tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)


LOSSES = pa.schema(
    [("example_id", pa.int64()), ("loss", pa.float32()), ("num_label_tokens", pa.int32())]
)


ANSWERS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("generated", pa.string()),
        ("extracted", pa.string()),  # null: no answer found
        ("correct", pa.bool_()),
    ]
)
