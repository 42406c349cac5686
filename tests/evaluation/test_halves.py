"""Held-out examples in two halves."""

import numpy as np
import pyarrow as pa

from s2l_ray.evaluation.halves import _half
from s2l_ray.store import Store


def test_each_example_is_in_one_half_whatever_else_its_id_decides(tmp_path):
    store = Store(tmp_path)
    ids = np.sort(np.random.default_rng(0).integers(0, 2**63, 4000, dtype=np.int64))
    table = pa.table({"example_id": ids, "source": [f"s{n}" for n in range(len(ids))]})
    part = store.write_part(table, "set/1", "part-00000", suffix="parquet")
    halves = [_half(store, "set/1", half)({"part": part})[0] for half in (0, 1)]
    assert sorted(pa.concat_tables(halves)["source"].to_pylist()) == sorted(
        table["source"].to_pylist()
    )
    for half in halves:
        mine = half["example_id"].to_numpy()
        assert abs(len(mine) - 2000) < 100  # three standard deviations
        # Folds are by the last bit, and parts by the first ones.
        assert abs((mine % 2).mean() - 0.5) < 0.04
        assert abs((mine > 2**62).mean() - 0.5) < 0.04
