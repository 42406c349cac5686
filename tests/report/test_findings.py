"""What the page says about trajectories, clusters and the subset."""

from __future__ import annotations

import dataclasses

import numpy as np
from support.reports import report_data

from s2l_ray.report.findings import findings


def test_diagnostics_in_words() -> None:
    text = " ".join(findings(report_data()))
    assert "98.0% of the variance of the trajectories is the loss level" in text
    assert "close to loss strata" in text
    assert "Nearly every cluster (97.0%) is larger than its quota" in text
    assert "single clusters mean little" in text
    # As tests/test_planted.py has them: every cluster is larger than its quota of 6.
    sizes, chosen = [160] * 3 + [10] * 6 + [60], [6] * 10
    data = dataclasses.replace(
        report_data(), cluster_sizes=sizes, cluster_chosen=chosen, share_above_quota=1.0
    )
    text = " ".join(findings(data))
    assert "Nearly every cluster (100.0%) is larger than its quota: hardly one is taken" in text
    assert (
        "in the smaller half of the clusters 60.0% were chosen, of those in the larger half 5.5%: "
        "what is rare is favoured."
    ) in text
    data = dataclasses.replace(data, cluster_chosen=[16] * 3 + [1] * 6 + [6])
    assert "half 10.0%: what is rare is not favoured." in " ".join(findings(data))
    data = dataclasses.replace(report_data(), loss_quantiles_5T=np.ones((5, 8)))
    assert any("did not fall" in sentence for sentence in findings(data))


def test_checkpoints_left_out_are_told() -> None:
    assert "Scoring stopped" not in " ".join(findings(report_data(T=3)))
    stopped = dataclasses.replace(report_data(T=3), n_left_out=9, agreement=0.9712)
    text = " ".join(findings(stopped))
    assert "Scoring stopped after 3 of 12 checkpoints, which spared 75% of it" in text
    assert "adjusted Rand index 0.971 " in text
