"""The Arrow schemas of all artifacts of a run directory."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

TURNS = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),  # system, user, input, assistant or tool
            ("text", pa.string()),
            ("reasoning", pa.string()),  # of the assistant, before its text
            ("tool_calls", pa.string()),  # JSON: a list of calls, nested as OpenAI writes them
            ("name", pa.string()),  # of the tool or the speaker
            ("tool_call_id", pa.string()),  # of the call that a tool's turn answers
            ("train", pa.bool_()),  # false: the turn has no labels
        ]
    )
)

# Examples: the corpus, its held-out part, and (with more columns) a subset.
EXAMPLES = pa.schema(
    [
        ("example_id", pa.int64()),
        ("source", pa.string()),
        ("turns", TURNS),
        ("tools", pa.string()),  # JSON: the list of tools that the chat may call
        ("file", pa.string()),  # where the row came from
        ("row", pa.int64()),  # its line, counted from 1 (its number, in files without lines)
    ]
)

# Of a corpus with corpus.columns.topic: null for a row without one.
EXAMPLES_WITH_TOPIC = EXAMPLES.append(pa.field("topic", pa.string()))


def completed(examples: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the nullable columns and turn fields that an older version did not write."""
    columns = []
    for field in schema:
        if field.name not in examples.schema.names:
            columns.append(pa.nulls(examples.num_rows, field.type))
        else:
            columns.append(examples[field.name].cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


REJECTED = pa.schema(
    [("raw", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)

# Rows that were dropped because another has the same source and content.
DUPLICATES = pa.schema(
    [
        ("example_id", pa.int64()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("kept_file", pa.string()),  # where the example was kept from
        ("kept_row", pa.int64()),
    ]
)

HASHES = 128  # of a signature

# MinHash signatures, of the examples that have a label token.
SIGNATURES = pa.schema([("example_id", pa.int64()), ("signature", pa.list_(pa.uint32(), HASHES))])

PAIRS = pa.schema([("a", pa.int64()), ("b", pa.int64())])  # ids of examples, a < b

# Of the examples in groups of two or more.
NEAR_DUPLICATES = pa.schema(
    [
        ("example_id", pa.int64()),
        ("group", pa.int64()),  # the smallest id in it
        ("place", pa.int32()),  # in the group, by id, from 0
    ]
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


def signals(names: Iterable[str], width: int) -> pa.Schema:
    """The schema of losses with signals beside them (the stages `details/`), by name.

    width: of `features`, the only signal that is a vector.
    """
    of = {"features": pa.list_(pa.float32(), width)}
    return pa.schema([*LOSSES, *((name, of.get(name, pa.float32())) for name in sorted(names))])


def trajectories(width: int) -> pa.Schema:
    """The schema of trajectories, and of what is clustered in their place (falls, features).

    width: numbers per example; for trajectories the checkpoints, in step order.
    """
    return pa.schema(
        [
            ("example_id", pa.int64()),
            ("source", pa.string()),
            ("losses", pa.list_(pa.float32(), width)),
            ("num_label_tokens", pa.int32()),
        ]
    )


CLUSTERS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("cluster_id", pa.int32()),  # unique over all sources
        ("distance", pa.float32()),  # to the center, Euclidean
    ]
)


def centers(width: int) -> pa.Schema:
    """The schema of `centers.arrow`, a row per cluster in cluster_id order."""
    return pa.schema(
        [
            ("cluster_id", pa.int32()),
            ("source", pa.string()),  # null if the cluster crosses sources
            ("center", pa.list_(pa.float64(), width)),
        ]
    )


GROUPS = pa.schema([("example_id", pa.int64()), ("group", pa.int32())])

RANKING = pa.schema(
    [
        ("example_id", pa.int64()),
        ("score", pa.float64()),  # smallest first
        ("group", pa.int32()),
    ]
)

SUBSET = pa.schema(
    [
        *EXAMPLES,
        ("rank", pa.int64()),
        ("cluster_id", pa.int32()),  # null if the selector draws from no clusters
        ("reason", pa.string()),
    ]
)

WEIGHTED = SUBSET.append(pa.field("weight", pa.float32()))  # of the example in training


def completed_subset(examples: pa.Table) -> pa.Table:
    """Complete a part of a subset, with its weights if it has any."""
    return completed(examples, WEIGHTED if "weight" in examples.schema.names else SUBSET)


# A sum of gradients, a row per weight of the model.
GRADIENT_SUM = pa.schema([("gradient", pa.float32())])


def sketches(width: int) -> pa.Schema:
    """The schema of sketches of single examples' gradients."""
    return pa.schema(
        [
            ("row", pa.int64()),  # in the sample
            ("norm", pa.float32()),  # of the whole gradient
            ("sketch", pa.list_(pa.float32(), width)),
        ]
    )


ANSWERS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("generated", pa.string()),
        ("extracted", pa.string()),  # null: no answer found
        ("correct", pa.bool_()),
    ]
)

TEXTS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("generated", pa.string()),
        ("rouge_l", pa.float32()),
        ("bert_score", pa.float32()),  # null: not measured
    ]
)
