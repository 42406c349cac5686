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
    assert "100.0% of the clusters are larger than their quota, so hardly any cluster is" in text
    assert (
        "In the smaller half of the clusters 60.0% of the examples were chosen, in the larger half "
        "5.5%: rare examples are favoured."
    ) in text
    data = dataclasses.replace(data, cluster_chosen=[16] * 3 + [1] * 6 + [6])
    assert "half 10.0%: rare examples are not favoured." in " ".join(findings(data))
    data = dataclasses.replace(report_data(), loss_quantiles_5T=np.ones((5, 8)))
    assert any("did not fall" in sentence for sentence in findings(data))


def test_what_is_cut_is_told_from_a_twentieth_of_the_corpus_on() -> None:
    data = dataclasses.replace(report_data(), corpus_by_source={"a": 600, "b": 400})
    few = dataclasses.replace(data, n_truncated=49, n_unlabelled=49)
    assert not any("truncated" in sentence for sentence in findings(few))
    many = dataclasses.replace(data, n_truncated=373, n_unlabelled=281)
    assert findings(many)[-2:] == [
        "37.3% of the corpus was truncated. Losses and training see only the beginning of these "
        "examples.",
        "28.1% of the corpus has no response token left, so it is neither trained on nor chosen. "
        "If it was truncated, raise prompt.max_length.",
    ]
