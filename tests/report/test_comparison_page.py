"""A comparison's tables, text, plan and page: numbers by hand, hostile names."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from support.reports import Page

from s2l_ray.analysis.alarms import Alarm
from s2l_ray.analysis.statistics import detectable, pairs_needed
from s2l_ray.config import CompareConfig, validate
from s2l_ray.pipeline import comparison
from s2l_ray.pipeline.arms import FULL_COMPUTE, FULL_EPOCHS, Arm, more_random
from s2l_ray.pipeline.records import settings_of_comparison
from s2l_ray.pipeline.stage import Stage
from s2l_ray.report import comparison_page as page
from s2l_ray.report import comparison_text as text
from s2l_ray.report.comparison_json import as_json
from s2l_ray.report.comparison_tables import groups_of
from s2l_ray.report.figures import comparison as figures
from s2l_ray.report.next_steps import Commands
from s2l_ray.store import Manifest

SD = np.std(0.001 * np.arange(6), ddof=1)  # of s2l's differences in `records`
HOSTILE = "<script>alert(1)</script>"


def records(shift=0.1, seeds=6, matches=("examples",), questions=False):
    """Return losses of random, and of s2l lower by `shift` and 0.001 per seed."""
    found = []
    for match in matches:
        for seed in range(seeds):
            for method, less in (("s2l", shift + 0.001 * seed), ("random", 0.0)):
                loss = 2 + 0.01 * seed - less
                found.append(
                    {
                        "method": method, "budget": "11%", "match": match,
                        "selection_seed": seed, "training_seed": seed, "examples": 40,
                        "tokens": 900, "steps": 4, "trained_tokens": 1800 + seed,
                        "shared": 1.0 if method == "random" else 0.3 + 0.01 * seed,
                        "loss": loss, "macro": loss + 1, "by_source": {"a": loss, HOSTILE: 3.0},
                        "examples_by_source": {"a": 30, HOSTILE: 1},
                    }
                    | (
                        {"exact_match": {
                            "sums": {"correct": 10 * (method == "s2l") + seed, "questions": 50}
                        }}
                        if questions
                        else {}
                    )
                    | (
                        {"errors_over_examples": {"loss": 0.01 * (seed + 1), "macro": None}}
                        if method == "s2l"
                        else {}
                    )
                )  # fmt: skip
    return found


def config(**compare):
    training = {"model": {"name": "m"}, "num_checkpoints": 2}
    return validate(
        {"run_dir": "r", "corpus": {"path": "c"}, "proxy": training, "target": training,
         "compare": {"budgets": ["11%"]} | compare}
    )  # fmt: skip


def test_the_table_by_hand():
    [group] = groups_of(records())
    assert (group.budget, group.match) == ("11%", "examples")
    assert group.costs["s2l"] == {
        "examples": "40", "shared": "30–35%", "steps": "4", "trained_tokens": "1,800–1,805",
        "runs": "6",
    }  # fmt: skip
    keys = [table.metric.key for table in group.tables]
    assert keys == ["loss", "macro", "by_source/a", f"by_source/{HOSTILE}"]
    words = [table.metric.words for table in group.tables]
    assert words[2] == "held-out loss on a (30 examples)" and words[3].endswith("(1 example)")
    s2l, random = group.tables[0].rows
    differences = -0.1 - 0.001 * np.arange(6)
    assert s2l.difference.mean == pytest.approx(differences.mean())
    assert s2l.difference.standard_error == pytest.approx(differences.std(ddof=1) / math.sqrt(6))
    assert (s2l.verdict, random.verdict) == ("better", None)
    assert [table.errors for table in group.tables[:3]] == [{"s2l": pytest.approx(0.035)}, {}, {}]
    assert "pair's difference over the examples: s2l 0.035." in text.as_text(records())
    # Other measures are exploratory.
    assert {row.verdict for table in group.tables[1:] for row in table.rows} == {
        None, "exploratory",
    }  # fmt: skip
    assert "exploratory: held-out loss, mean over sources: s2l −0.103 [" in text.as_text(records())
    # No seed repeats, so the spreads of selection and training cannot be separated.
    assert group.tables[0].spreads == {}


def test_spreads_by_hand_if_a_subset_is_trained_on_twice():
    found = []
    for record in records():
        for number in (0, 1):
            loss = record["selection_seed"] + 0.5 * number
            found.append(record | {"training_seed": 100 * number + record["selection_seed"],
                                   "loss": loss})  # fmt: skip
    selection, training = groups_of(found)[0].tables[0].spreads["random"]
    within = 0.5**2 / 2
    values = np.array([record["loss"] for record in found if record["method"] == "random"])
    seeds = values.reshape(6, 2)
    pairs = [
        (x - y) ** 2 / 2
        for i in range(6) for j in range(i) for x in seeds[i] for y in seeds[j]
    ]  # fmt: skip
    assert selection == pytest.approx(math.sqrt(np.mean(pairs) - within))
    assert training == pytest.approx(math.sqrt(within))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(page.machine, "hardware", lambda: "2 CPUs")


def rendered(found, settings_path=None):
    commands = None if settings_path is None else Commands(settings_path)
    return Page(page.render("t", "r", found, commands))


def test_the_page_escapes_and_shows_each_group():
    found = [r | {"left_out": ["3 of 6 left out"]} for r in records(matches=("examples", "tokens"))]
    html = page.render("a <b>", "run & dir", found)
    assert Page(html).texts("li").count("3 of 6 left out.") == 1
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "a &lt;b&gt;" in html and "run &amp; dir" in html
    headings = Page(html).texts("h3")
    assert "Budget 11%, equal examples" in headings and "Budget 11%, equal tokens" in headings


def test_the_page_answers_in_the_order_of_a_run_s():
    shown = rendered(records(), "/runs/x/report/config.yaml")
    assert shown.texts("h2") == [
        "s2l is better than random", "What the differences are", "How sure they are",
        "What was trained", "How to go on", "The record",
    ]  # fmt: skip
    for tag in ("p", "li", "figcaption"):
        assert max(map(len, shown.texts(tag))) <= 250
    assert shown.texts("p")[2:5] == [
        "12 targets compare 1 method with random, at 1 budget and over 6 seeds.",
        "At budget 11%, equal examples: s2l is better than random.",
        # statistics.detectable for the standard deviation of 0, 0.001, … 0.005
        f"6 seeds show differences of {detectable(SD, 6):.5f} or more with 80% power; smaller ones "
        "may exist.",
    ]  # fmt: skip


def test_the_page_says_what_to_run_next():
    file = "/runs/x/report/config.yaml"
    [train, more, _] = rendered(records(), file).texts("pre")
    assert train == f"s2l-ray finetune {file} selection.selector=s2l selection.budget=11%"
    assert more == f"s2l-ray compare {file} 'compare.seeds=[0,1,2,3,4,5,6,7,8,9,10,11]'"
    [train, *_] = rendered(records(shift=-0.1), file).texts("pre")
    assert train == f"s2l-ray finetune {file} selection.selector=random selection.budget=11%"
    [seeds] = rendered(records(seeds=2), file).texts("pre")
    assert seeds == f"s2l-ray compare {file} 'compare.seeds=[0,1,2,3,4,5]'"
    assert rendered(records()).texts("pre") == []
    full = [
        record | {"method": "full, equal epochs", "loss": record["loss"] - 1}
        for record in records()
        if record["method"] == "s2l"
    ]
    [train, *_] = rendered([*records(), *full], file).texts("pre")
    assert "selection.selector=s2l " in train  # the whole corpus is no selector


def test_too_few_seeds_and_lost_pairs_are_alarming():
    shown = rendered(records(seeds=2))
    assert (
        "Do not decide on this yet: 2 seeds have a difference, and a verdict needs 6."
        in shown.texts("p")
    )
    found = records()
    found[0] = found[0] | {"loss": math.nan}
    html = page.render("t", "r", found)
    assert html.count('role="alert"') == 1 and "1 pair left out" in html
    of_run = [Alarm("diverged", "seed 2: The proxy diverged", "Lower it.")]
    html = page.render("t", "r", found, of_run=of_run)
    assert html.count('role="alert"') == 2
    assert html.index("seed 2: The proxy diverged") < html.index("1 pair left out")


def test_the_forest_by_hand():
    """Differences −0.1 to −0.105: mean −0.1025, half width 2.5706 times 0.0018708/√6 = 0.00196."""
    [group] = groups_of(records())
    chart = figures.forest(group)
    [row] = chart.rows
    assert (row.name, row.cells) == ("s2l", ["−0.103 [−0.104, −0.101]", "better (< 0.001)"])
    bar, diamond = row.marks
    assert bar.tone == diamond.tone == "main"
    assert chart.ticks[0].text == "−0.12" and chart.zero == 100
    assert diamond.start == pytest.approx(14.58, abs=0.01)  # 0.0175 of 0.12
    assert bar.width == pytest.approx(100 * 2 * 0.00196 / 0.12, abs=0.05)


def test_all_sources_of_a_method_are_one_chart():
    [group] = groups_of(records())
    [chart] = figures.by_metric(group)
    assert [row.name for row in chart.rows] == [
        "mean over sources", "a (30 examples)", f"{HOSTILE} (1 example)",
    ]  # fmt: skip
    assert chart.title == "s2l by other measures (exploratory)"
    # The hostile source has the loss 3 in all runs.
    assert chart.rows[2].cells == ["0", "exploratory"]


def test_a_far_difference_is_an_arrow_with_its_number():
    arms = [
        {"method": name, "loss": loss + 0.001 * (seed % 2) * (name != "random"), "seed": seed}
        for name, loss in {"random": 3.0, "a": 2.98, "b": 3.01, "c": 2.99, "far": 2.5}.items()
        for seed in range(6)
    ]
    base = records()[0]
    found = [
        base | {"method": arm["method"], "loss": arm["loss"], "selection_seed": arm["seed"],
                "training_seed": arm["seed"], "macro": 1.0, "by_source": {},
                "examples_by_source": {}}
        for arm in arms
    ]  # fmt: skip
    [group] = groups_of(found)
    chart = figures.forest(group)
    rows = {row.name: row for row in chart.rows}
    [arrow] = rows["far"].marks
    assert arrow.kind == "left" and arrow.start == 0 and rows["far"].cells[0].startswith("−0.500")
    low, high = float(chart.ticks[0].text.replace("−", "-")), float(chart.ticks[-1].text)
    assert low == -high and 0.02 <= high < 0.04
    assert chart.caption.endswith("An arrow marks a mean beyond the axis.")
    assert all(mark.kind != "left" for row in chart.rows[:3] for mark in row.marks)


def test_text_has_numbers_and_verdict():
    said = text.as_text(records())
    [line] = [line for line in said.splitlines() if line.strip().startswith("s2l")]
    mean = np.mean([r["loss"] for r in records() if r["method"] == "s2l"])
    assert f"{mean:.4f}" in line and "−0.1025 [" in line and "  better  " in line
    assert "left out" not in said
    told = text.as_text([record | {"left_out": ["3 of 6 left out"]} for record in records()])
    assert told == f"{said}\n3 of 6 left out"
    few = text.as_text(records(seeds=3))
    assert "No verdict: s2l −0.1" in few and "at least 6 selection seeds" in few


def test_a_selector_with_too_few_examples_is_named_and_left_out():
    where = {"budget": "11%", "match": "examples", "selection_seed": 3, "training_seed": 3}
    short = {"method": "k_center", **where, "too_few": "40 examples, but only <7>"}
    found = [*records(), short, short | {"training_seed": 4}]
    wanted = "Not compared: k_center with selection seed 3: 40 examples, but only"
    assert text.as_text(found).count(f"{wanted} <7>.") == 1
    html = page.render("t", "r", found)
    assert f"{wanted} &lt;7&gt;." in html
    assert "1 selection not compared.</strong> k_center with selection seed 3: 40 examples" in html
    assert groups_of(found)[0].tables == groups_of(records())[0].tables


def test_plan_says_what_the_seeds_can_detect():
    two = {"selectors": ["s2l", "random"], "budgets": ["11%", "38%"]}
    settings = config(**two, seeds=[0, 1, 2, 3, 4], difference=0.001)
    said = text.plan(settings, comparison.num_targets(settings), [])
    assert "at most 50 targets" in said  # s2l, random of three amounts, the whole corpus
    assert f"{detectable(1.0, 5, alpha=0.05 / 2):.1f} standard deviations" in said
    seen = records()
    said = text.plan(settings, 15, seen)
    assert f"{SD:.5f} nats per token" in said
    assert f"detect a difference of {detectable(SD, 5, alpha=0.025):.5f} (80% power" in said
    assert (
        f"a difference of 0.001 nats per token needs {pairs_needed(SD, 0.001, alpha=0.025):,} seeds"
        in said
    )
    other = config(selectors=["s2l", "random"], budgets=["38%"])
    assert "no spread is known yet" in text.plan(other, 15, seen)
    assert "1 seed shows no spread" in text.plan(config(seeds=[1]), 1, [])
    assert "4 seeds give differences but no verdict" in text.plan(config(seeds=[0, 1, 2, 3]), 1, [])


def test_more_trainings_per_seed_do_not_lower_the_detectable_difference():
    """The spread is that of a seed's mean over its trainings, pooled by degrees of freedom."""
    twice = [
        record | {"training_seed": 100 * number + record["training_seed"]}
        for record in records()
        for number in (0, 1)
    ]
    settings = config(selectors=["s2l", "random"], trainings=2)
    assert f"detect a difference of {detectable(SD, 6):.5f} (80% power" in text.plan(
        settings, 30, twice
    )
    # Another method with only two seeds: one degree of freedom, next to five.
    also = [
        record | {"method": "longest", "loss": record["loss"] + 0.01 * record["selection_seed"]}
        for record in records()
        if record["method"] == "s2l" and record["selection_seed"] < 2
    ]
    other = 0.009 / math.sqrt(2)  # of -0.1 and -0.091
    pooled = math.sqrt((5 * SD**2 + other**2) / 6)
    said = text.plan(settings, 30, records() + also)
    assert f"standard deviation of {pooled:.5f} nats" in said
    assert f"(pooled; from {SD:.5f} for s2l to {other:.5f} for longest)" in said


def test_the_spread_seen_is_of_as_many_trainings_and_of_the_same_held_out_share():
    once = config(trainings=1)
    assert settings_of_comparison(once) == settings_of_comparison(config(seeds=[7]))
    others = config(trainings=2), once.model_copy(update={"seed": 1})
    assert len({settings_of_comparison(each) for each in (once, *others)}) == 3


def test_random_tokens_is_compared_at_equal_examples_alone():
    """Where all have random's tokens it would be random."""
    settings = config(
        selectors=["s2l", "random", "random_tokens"], seeds=[0], match=["examples", "tokens"]
    )
    # The baseline, of three amounts; the whole corpus twice; s2l twice; random_tokens.
    assert comparison.num_targets(settings) == 3 + 2 + 2 + 1
    with pytest.raises(ValueError, match="random_tokens needs examples among them"):
        config(also=["random_tokens"], match=["tokens"])


def test_a_selection_is_compared_with_its_controls():
    """By hand: 0.02 and 0.04 below, and 0.001 per seed; half width 2.5706 times 0.001871 / √6."""
    found = records()
    for control, above, like in (
        ("loss_strata", 0.02, {}),
        ("random_shares", 0.04, {"like": "s2l"}),
    ):
        found += [
            record
            | {"method": control, "loss": record["loss"] + above + 0.001 * record["selection_seed"]}
            | like
            for record in records()
            if record["method"] == "s2l"
        ]
    [group] = groups_of(found)
    assert group.tables[0].controls == [
        "s2l − loss_strata (strata of the mean loss, of equal size): −0.0225 "
        "[−0.0245, −0.0205] (6 pairs, not corrected).",
        "s2l − random_shares (random examples, the same shares of sources): −0.0425 "
        "[−0.0445, −0.0405] (6 pairs, not corrected).",
    ]
    assert groups_of(records())[0].tables[0].controls == []
    said = text.as_text(found)
    assert "s2l − random_shares" in said
    assert "40 examples (30–35% also in random's), 4 steps" in said


def test_one_training_of_two_budgets_has_a_record_of_each(monkeypatch):
    """The whole corpus for equal epochs is one training, beside the baselines of both budgets."""
    settings = config()
    target, asked = settings.target, []

    def evaluate(_, made):
        asked.extend(made)
        return {name: {"loss": 1.0} for name in made}

    monkeypatch.setattr(comparison, "evaluate", evaluate)
    trained = Manifest("t", "t", [], {"step": 4, "tokens": 9})
    monkeypatch.setattr(comparison, "target_stage", lambda *_, **__: Stage.given(trained))
    arms = []
    for budget, count in (("11%", 11), ("38%", 38)):
        of = budget, "examples", 0, 0
        arms += [
            Arm(*of, "random", None, count, 10 * count, 1.0, target),
            Arm(*of, FULL_EPOCHS, None, 100, 1000, count / 100, target),
        ]
    run = SimpleNamespace(
        config=settings, plan=None, find=lambda stage: stage.found, get=lambda stage: stage.found
    )
    found = comparison._measure(run, arms)
    assert len(asked) == 3 and [record["budget"] for record in found] == [
        "11%",
        "11%",
        "38%",
        "38%",
    ]


def amounts(found):
    """Add random of half and twice the budget: 0.1 nats more, and 0.1 less; by hand ×2 for s2l."""
    for factor, worse in ((0.5, 0.1), (2, -0.1)):
        found += [
            record
            | {"method": more_random(factor), "examples": round(40 * factor),
               "loss": record["loss"] + worse + 0.0001 * record["selection_seed"]}
            for record in found
            if record["method"] == "random"
        ]  # fmt: skip
    return found


def test_a_selection_is_worth_so_much_random_data():
    [group] = groups_of(amounts(records(shift=0.05)))
    assert list(group.worth) == ["s2l"]
    # 0.0525 of 0.1 nats per doubling, and 0.00025 of that: 2^(0.0525/0.09975).
    assert group.worth["s2l"].times == pytest.approx(2 ** (0.0525 / 0.09975), rel=0.001)
    said = text.as_text(amounts(records(shift=0.05)))
    assert "Worth so many times as much random data: s2l ×1.44 [1.4" in said
    assert "random was measured from ×0.5 to ×2." in said
    assert {row.method: row.verdict for row in group.tables[0].rows} == {
        "s2l": "better", "random": None, "random ×0.5": "reference", "random ×2": "reference",
    }  # fmt: skip
    html = page.render("t", "r", amounts(records(shift=0.05)))
    assert "s2l is better than random, worth ×1.44 [1.43, 1.45] as much random data." in html
    assert groups_of(records())[0].worth == {}


def test_equal_methods_have_their_margin_and_its_p():
    close = [
        record | {"loss": record["loss"] + 0.1025 + 0.004 * (-1) ** record["selection_seed"]}
        if record["method"] == "s2l"
        else record
        for record in records()
    ]
    rules = CompareConfig(equivalent=0.02)
    [group] = groups_of(close, rules)
    row = group.tables[0].rows[0]
    assert row.verdict == "equal" and row.equal_p < 0.001 < 0.1 < row.adjusted_p
    assert figures.forest(group).rows[0].cells[-1] == "equal (< 0.001)"
    shown = Page(page.render("t", "r", close, rules=rules))
    assert "At budget 11%, equal examples: s2l is equal to random within 0.0200." in shown.texts(
        "p"
    )
    assert "<0.001" in [cell.replace(" ", "") for cell in shown.texts("td")]
    # Without a margin, what can be ruled out.
    told = rendered(close).texts("li")
    wanted = (
        f"differ from random by less than (5% error each, not corrected): s2l {row.within:.5f}."
    )
    assert f"The methods that are not distinguishable {wanted}" in told


def with_full(gain, seeds=6):
    """Records with the whole corpus at equal compute, so much better."""
    found = records(seeds=seeds)
    return found + [
        record | {"method": FULL_COMPUTE, "loss": record["loss"] - gain - 0.001 * (n % 3)}
        for n, record in enumerate(found)
        if record["method"] == "random"
    ]


def test_the_headroom_is_told():
    assert "Headroom: all the data at equal compute beats random by −0.2" in text.as_text(
        with_full(0.2)
    )
    without = with_full(0.0)
    assert "Little headroom: all the data at equal compute does not beat" in text.as_text(without)
    alike = [
        record | {"loss": record["loss"] + 0.1025 + 0.004 * (-1) ** record["selection_seed"]}
        if record["method"] == "s2l"
        else record
        for record in without
    ]
    said = text.as_text(alike)
    assert "No headroom: all the data at equal compute does not beat random by 5" in said
    assert "What would: a smaller budget, more target.epochs, or a harder evaluation" in said
    html = page.render("t", "r", alike)
    assert "This setting cannot tell selections apart: it has no headroom." in html
    assert "Headroom unknown: no target was trained on the whole corpus" in text.as_text(records())
    said = text.as_text(with_full(0.2, seeds=2))
    assert "Headroom unknown: 2 seeds of the whole corpus, and the headroom takes 3" in said


def test_progress_has_values_and_no_verdicts(said):
    settings = config(selectors=["s2l", "random"])
    text.tell_progress(settings, with_full(0.0, seeds=2))
    told = said()
    assert "seed 2 of 6, budget 11%" in told and "random 2.0050" in told
    assert "better" not in told and "[" not in told and "headroom" not in told
    text.tell_progress(settings, with_full(0.0, seeds=3))
    assert "budget 11%: all the data at equal compute does not beat random" in said()
    text.tell_progress(settings, with_full(0.2, seeds=3))
    assert "does not beat random" not in said()


def test_questions_are_the_primary_measure_if_there_are_some():
    [group] = groups_of(records(questions=True))
    first = group.tables[0]
    # A higher share of correct answers is better. All seeds differ by 10 of 50: no spread.
    assert first.metric.key == "exact_match/sums" and not first.metric.lower_is_better
    assert first.rows[0].difference.mean == pytest.approx(0.2)
    assert first.rows[0].verdict == "no verdict"
    [by_name] = groups_of(records(questions=True), CompareConfig(primary="macro"))
    assert by_name.tables[0].metric.key == "macro"
    assert by_name.tables[0].rows[0].verdict == "better"


def test_the_difference_to_plan_for_is_in_units_of_the_primary_measure():
    found = [
        record | {"exact_match": {"sums": {"correct": 20 + n % 5, "questions": 50}}}
        for n, record in enumerate(records())
    ]
    said = text.plan(config(selectors=["s2l", "random"], difference=0.05), 14, found)
    assert "a difference of 0.05 share of correct answers needs" in said


def test_a_primary_measure_that_the_records_lack_is_told_and_one_for_all_groups():
    found = records(matches=("examples", "tokens"), questions=True)
    rules = CompareConfig(primary="exact_match")
    assert "compare.primary" not in text.as_text(found, rules)
    del found[0]["exact_match"]
    keys = [group.tables[0].metric.key for group in groups_of(found, rules)]
    assert keys == ["loss", "loss"]  # not exact_match at equal tokens, which has all of it
    wanted = (
        "compare.primary: exact_match is not in these records; verdicts are on loss. Run compare "
        "again to measure it: no target is trained again"
    )
    assert text.as_text(found, rules).endswith(f"\n{wanted}")
    assert f"{wanted}." in Page(page.render("t", "r", found, rules=rules)).texts("li")


def test_sources_that_are_too_small_are_shown_and_not_averaged():
    """Means over the two sources of 100 examples or more: 2.5 and 3.5 less 0.1; c is left out."""
    found = [
        record
        | {"by_source": {"a": 2.5 - less, "b": 3.5 - less, "c": 9.0 + less},
           "examples_by_source": {"a": 100, "b": 2000, "c": 99}}
        for record in records()
        for less in [0.1 * (record["method"] == "s2l") * (1 + record["selection_seed"] / 10)]
    ]  # fmt: skip
    [group] = groups_of(found)
    first = group.tables[0]
    assert first.metric.key == "macro_100"
    assert first.rows[1].mean == pytest.approx(3.0)
    assert first.rows[0].difference.mean == pytest.approx(-0.125)
    said = text.as_text(found)
    assert "held-out loss, mean over the 2 sources with at least 100 held-out examples" in said
    assert "Not in the mean, with fewer than 100 held-out examples: c (99 examples)." in said
    assert "1 source with fewer than 100 held-out examples is shown" in page.render("t", "r", found)


def test_verdicts_for_programs():
    found = as_json(groups_of(amounts(with_full(0.2)), CompareConfig(equivalent="10%")))
    json.dumps(found, allow_nan=False)
    assert found["primary"]["key"] == "loss"
    [group] = found["groups"]
    rows = {row["method"]: row for row in group["rows"]}
    assert rows["s2l"]["verdict"] == "better" and rows["random"]["verdict"] == "baseline"
    assert rows["s2l"]["sign_flip_p"] == 2 / 64
    assert rows["s2l"]["equal_margin"] == pytest.approx(0.1 * 2.025)
    assert rows["s2l"]["equal_p"] < 0.001  # better, by less than 10%
    # s2l is 0.1025 better, random ×2 is 0.09975 better.
    assert rows["s2l"]["worth"] | {"low": 0} == {
        "times": "above", "low": 0, "high": "above", "least": 0.5, "most": 2.0,
    }  # fmt: skip
    [worse] = as_json(groups_of(amounts(records(shift=-0.2))))["groups"]
    assert worse["rows"][0]["worth"]["times"] == worse["rows"][0]["worth"]["low"] == "below"
    assert group["headroom"]["passed"] and rows[FULL_COMPUTE]["verdict"] == "reference"
    assert [each["key"] for each in group["exploratory"]] == [
        "macro", "by_source/a", f"by_source/{HOSTILE}",
    ]  # fmt: skip
    verdicts = {row["verdict"] for each in group["exploratory"] for row in each["rows"]}
    assert verdicts == {"exploratory", "baseline", "reference"}
    assert as_json([])["primary"] is None
