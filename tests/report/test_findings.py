"""What the page says about trajectories, clusters and the subset."""

from __future__ import annotations

import dataclasses

import numpy as np
from support.reports import report_data

from s2l_ray.report.findings import findings


def test_findings_by_hand() -> None:
    text = " ".join(findings(report_data()))
    assert "98.0% of the variance of the trajectories is the loss level" in text
    assert "close to strata of the loss" in text
    assert "97.0% of the clusters are larger than their quota, so hardly any" in text
    assert "single clusters mean little" in text
    # As in tests/benchmarks/test_planted.py: every cluster is larger than its quota of 6.
    sizes, chosen = [160] * 3 + [10] * 6 + [60], [6] * 10
    data = dataclasses.replace(
        report_data(), cluster_sizes=sizes, cluster_chosen=chosen, share_above_quota=1.0
    )
    text = " ".join(findings(data))
    assert "100% of the clusters are larger than their quota, so hardly any cluster is" in text
    assert (
        "Rare examples are favoured: 60.0% chosen from the smaller half of the clusters, 5.45% "
        "from the larger."
    ) in text
    data = dataclasses.replace(data, cluster_chosen=[16] * 3 + [1] * 6 + [6])
    assert "not favoured: 10.0% chosen from the smaller half" in " ".join(findings(data))
    data = dataclasses.replace(report_data(), loss_quantiles_5T=np.ones((5, 8)))
    assert not any("median loss" in sentence for sentence in findings(data))  # it is an alarm
    data = dataclasses.replace(data, near_duplicates=["s2l spends nothing on copies."])
    assert findings(data)[0] == "s2l spends nothing on copies."
