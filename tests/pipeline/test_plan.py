"""Which settings a stage's fingerprint depends on."""

import os

from support.runs import fingerprints_of, plan_of, settings

from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.pipeline.stage import walk


def test_a_model_in_a_folder_goes_by_its_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    config = settings(tmp_path / "run", proxy__model={"name": str(folder)})
    before = fingerprints_of(config)
    os.utime(folder / "model.safetensors", (1, 1))  # a copy
    assert fingerprints_of(config) == before
    (folder / "model.safetensors").write_text("other weights")
    after = fingerprints_of(config)
    assert [name for name in before if before[name] == after[name]] == ["corpus"]


def test_another_baseline_s_details_leave_a_selection_as_it_is():
    config = settings("run", selection__selector="el2n")
    more = settings("run", selection__selector="el2n", evaluation__baselines=["random", "grand"])
    one, two = fingerprints_of(config), fingerprints_of(more)
    assert one.pop("details/early") != two.pop("details/early")
    assert one == two


def test_what_changes_no_example_makes_no_target_anew():
    """Exports, the agreement of another k-means seed, how many rows may be set aside."""

    def marks(selector, **changes):
        changes = {"selection__export": []} | changes
        config = settings("run", selection__selector=selector, **changes)
        subset = plan_of(config).selection(config.selection)
        return [stage.fingerprint for stage in walk([subset])], subset.identity

    for selector in ("s2l", "s2l_official", "loss_strata", "random_shares"):
        stages, chosen = marks(selector)
        exported, same = marks(selector, selection__export=["alpaca"])
        assert same == chosen == stages[-1] == exported[-1]
    (*_, clusters, selection), chosen = marks("s2l")
    (*_, others, again), same = marks("s2l", clusters__stability=False)
    assert clusters != others and (selection, chosen) == (again, same)
    assert marks("s2l", clusters__n_clusters=4)[1] != chosen
    for selector, same in (("facility_location", True), ("k_center", False)):
        rankings = [marks(selector, selection__seed=seed)[0][-2] for seed in (0, 1)]
        assert (rankings[0] == rankings[1]) is same
    one, other = (
        settings("run", corpus__max_rejected_share=share).corpus for share in (0.01, 0.02)
    )
    assert fingerprint_of(one, {"rows": 1}) == fingerprint_of(other, {"rows": 1})
