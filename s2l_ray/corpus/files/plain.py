"""Columns whose values can be read all at once with the same result as one by one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.corpus.rows import MAX_DEPTH


def is_plain(column: pa.Array, *, of_json: bool, depth: int = 1) -> bool:
    """Return whether Python certainly reads the same values, and can hold them.

    of_json: pyarrow has parsed the column. It takes numbers such as -NaN, which are no JSON, and
    huge ones, which Python refuses; both are not finite. What looks like a date was a string.
    depth: of the column in its row.
    """
    if depth > MAX_DEPTH:  # read one by one, each such row is rejected
        return False
    kind = column.type
    if pa.types.is_struct(kind):
        fields = [column.field(place) for place in range(kind.num_fields)]
        distinct = len({field.name for field in kind}) == len(fields)
        return distinct and all(
            is_plain(field, of_json=of_json, depth=depth + 1) for field in fields
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return is_plain(column.values, of_json=of_json, depth=depth + 1)
    if pa.types.is_floating(kind):
        return not of_json or bool(pc.all(pc.is_finite(column), min_count=0).as_py())
    if pa.types.is_temporal(kind):
        return of_json or _is_readable(column)
    return (
        pa.types.is_null(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or (pa.types.is_dictionary(kind) and is_plain(column.dictionary, of_json=of_json))
    )


def _is_readable(column: pa.Array) -> bool:
    try:
        column.to_pylist()
    except (ValueError, OverflowError):  # a date after the year 9999
        return False
    return True
