"""Near-duplicates in a run: what is declared, refused, priced and told."""

import pytest
from support.runs import fingerprints_of, plan_of, settings

from s2l_ray.pipeline import preflight
from s2l_ray.pipeline.copies import Cap
from s2l_ray.pipeline.stage import walk


def stages(config):
    return {each.name: each for each in walk([plan_of(config).selection(config.selection)])}


def test_only_a_cap_makes_another_selection(tmp_path):
    plain = fingerprints_of(settings(tmp_path))
    found = fingerprints_of(settings(tmp_path, selection__near_duplicates={"max_per_group": None}))
    assert {*found} - {*plain} == {"near_duplicates/signatures", "near_duplicates/groups"}
    assert plain.items() <= found.items()
    capped = {
        (most, similarity): fingerprints_of(
            settings(
                tmp_path,
                selection__near_duplicates={"max_per_group": most, "similarity": similarity},
            )
        )
        for most, similarity in ((1, 0.8), (2, 0.8), (1, 0.9))
    }
    selected = {each["selections/s2l-seed0"] for each in [plain, *capped.values()]}
    assert len(selected) == 4
    for each in capped.values():  # proxy, losses and clusters are shared
        assert {name for name in plain if each[name] != plain[name]} == {"selections/s2l-seed0"}
    signed = {each["near_duplicates/signatures"] for each in [found, *capped.values()]}
    assert len(signed) == 1


def test_what_a_cover_may_not_choose_it_does_not_see(tmp_path):
    config = settings(
        tmp_path, selection__selector="k_center", selection__near_duplicates={"max_per_group": 1}
    )
    found = stages(config)
    kept = found["near_duplicates/kept"].folder
    assert kept in [each.folder for each in found["rankings/k_center"].inputs]
    seen = [each.folder for each in found["near_duplicates/kept"].inputs]
    assert found["details/final"].folder in seen
    uncapped = settings(tmp_path, selection__selector="k_center", selection__near_duplicates={
        "max_per_group": None})  # fmt: skip
    assert "near_duplicates/kept" not in stages(uncapped)
    assert Cap.of(plan_of(uncapped)) is None


def test_a_missing_package_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    config = settings(tmp_path, selection__near_duplicates={})
    with pytest.raises(ValueError, match=r'pip install "s2l-ray\[near-duplicates\]" here and on'):
        preflight.check(config, corpus=False)
    preflight.check(settings(tmp_path), corpus=False)


@pytest.mark.parametrize(
    ("value", "said"),
    [({"similarity": 0.3}, "similarity"), ({"max_per_group": 0}, "max_per_group"),
     ({"shingle_words": 0}, "shingle_words"), ({"shingles": 5}, "shingles")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path, value, said):
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, selection__near_duplicates=value)
