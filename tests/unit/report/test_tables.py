"""The table that ends a run."""

import json

import pytest
import torch

from lightning_xai.report.tables import format_table, summarize

NAN = float("nan")


def rows(values):
    return [(f"i{number}", 0, value) for number, value in enumerate(values)]


@pytest.fixture
def results():
    noise = torch.rand(30).tolist()
    return {
        "PCIM": {"gap": rows([value + 0.5 for value in noise]), "deletion": rows(noise)},
        "random": {"gap": rows(noise), "deletion": rows([*noise[:-1], NAN])},
    }


def test_summary_has_means_and_paired_differences(results):
    summary = summarize(results)
    own = [value for _, _, value in results["PCIM"]["gap"]]
    assert summary["explainers"]["PCIM"]["gap"]["mean"] == pytest.approx(sum(own) / 30, abs=1e-12)
    assert summary["explainers"]["random"]["deletion"]["undefined"] == 1
    gap = summary["differences"]["random"]["gap"]
    assert (gap["mean"], gap["low"], gap["high"]) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)
    assert summary["differences"]["random"]["deletion"]["mean"] == 0
    assert list(summary["differences"]) == ["random"]
    assert json.loads(json.dumps(summary)) == summary


def test_table_shows_direction_significance_and_undefined(results):
    text = format_table(summarize(results), {"gap": True, "deletion": False})
    head, own, control, blank, title, second_head, gap, space, foot = text.splitlines()
    assert head.split() == ["explainer", "gap", "(high)", "deletion", "(low)"] == second_head.split()
    assert own.startswith("PCIM") and control.startswith("random") and control.endswith("(1 undefined)")
    assert blank == space == "" and "95 % interval" in title and foot == "Intervals: bootstrap over 30 images."
    assert "+0.500 [+0.500, +0.500]*" in gap and gap.endswith("+0.000 [+0.000, +0.000]")
    assert gap.startswith("PCIM - random")


def test_columns_line_up(results):
    lines = format_table(summarize(results), {"gap": True, "deletion": False}).splitlines()
    assert len({line.index("  ", 9) for line in lines[:1]}) == 1
    starts = [lines[0].index("gap"), lines[1].index("0."), lines[2].index("0.")]
    assert len(set(starts)) == 1
    assert lines[5].index("gap") == lines[6].index("+0.500")


def test_many_metrics_have_a_row_each(results):
    many = {name: {f"metric_{number}": table["gap"] for number in range(9)} for name, table in results.items()}
    lines = format_table(summarize(many), {"metric_3": False}).splitlines()
    assert lines[0].split() == ["explainer", "PCIM", "random"]
    assert lines[4].split()[:2] == ["metric_3", "(low)"] and len(lines) == 10 + 2 + 10 + 2
    assert lines[12].split() == ["explainer", "PCIM", "-", "random"] and "+0.500 [" in lines[16]


def test_a_lone_explainer_has_no_differences(results):
    del results["random"]
    text = format_table(summarize(results), {"gap": None})
    assert len(text.splitlines()) == 4 and "Paired" not in text
    assert "gap  " in text and "(high)" not in text and "(low)" not in text


def test_metrics_without_any_value_are_shown_as_such():
    empty = {"a": {"mass": rows([NAN, NAN])}, "b": {"mass": rows([1.0, 2.0])}}
    text = format_table(summarize(empty), {"mass": True})
    assert "nan (2 undefined)" in text and "*" not in text.splitlines()[-3] and "[none]" in text.splitlines()[-3]


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (2, "Intervals: bootstrap over 15 groups (30 images)."),
        (5, "Intervals: Student's t over 6 groups (30 images), which are too few for a bootstrap."),
        (30, "Intervals: none, as there is only 1 group (30 images); one says nothing about others."),
    ],
)
def test_the_footer_says_what_was_resampled(results, size, line):
    groups = {f"i{number}": f"patient {number // size}" for number in range(30)}
    results["random"] = {metric: rows(torch.rand(30).tolist()) for metric in results["random"]}
    summary = summarize(results, groups)
    assert summary["resampling"] == {"unit": "groups", "units": 30 // size, "images": 30}
    assert {table["gap"]["units"] for table in summary["explainers"].values()} == {30 // size}
    text = format_table(summary, {"gap": True})
    assert text.splitlines()[-1] == line and ("[none]" in text) == (size == 30)


def test_few_groups_that_are_all_equal_have_no_interval_and_no_star(results):
    groups = {f"i{number}": f"patient {number // 5}" for number in range(30)}
    own = {"gap": rows([1.0] * 30)}
    text = format_table(summarize({"PCIM": own, "random": {"gap": rows([0.0] * 30)}}, groups), {"gap": True})
    assert "+1.000 [none]" in text and "]*" not in text


def test_controls_are_told_from_methods(results):
    summary = summarize(results, controls=["random"])
    assert list(summary["explainers"]) == ["PCIM"] and list(summary["controls"]) == ["random"]
    assert list(summary["differences"]) == ["random"] and "\nrandom " in format_table(summary, {"gap": True})
