import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import DataError
from rlvr_trainer.evaluation.outcome import compare
from rlvr_trainer.report import render_report, render_sweep_report, write_report
from rlvr_trainer.report.samples_section import by_outcome, choose
from rlvr_trainer.report.training_section import duration, phase_seconds, training_series

VOID = {"meta", "br", "hr"}
HEADINGS = {"h1", "h2", "h3", "h4"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, *tags: str) -> Iterator["Element"]:
        for child in self.children:
            if not tags or child.tag in tags:
                yield child
            yield from child.all(*tags)


class Tree(HTMLParser):
    """Parser of a document into a tree; an end tag without its start fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root], f"not closed: {self.open[-1].tag}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice: {attrs}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


@pytest.fixture(params=["demo", "minimal", "nasty"], scope="module")
def html(request: pytest.FixtureRequest) -> str:
    return render_report(**request.getfixturevalue(f"{request.param}_report"))


def text_of(html: str) -> str:
    return Tree(html).root.text.replace("\xa0", " ")


# ── Any run ─────────────────────────────────────────────────────────────────────────────────


def test_a_report_is_one_well_formed_document_in_english(html: str) -> None:
    assert html.startswith("<!doctype html>")
    root = Tree(html).root.children[-1]
    assert (root.tag, root.attributes["lang"]) == ("html", "en")
    assert [child.tag for child in root.children] == ["head", "body"]
    landmarks = [element.tag for element in root.all("header", "main", "footer")]
    assert landmarks == ["header", "main", "footer"]


def test_a_report_loads_nothing_and_runs_nothing(html: str) -> None:
    elements = list(Tree(html).root.all())
    names = {name for element in elements for name in element.attributes}
    assert not {element.tag for element in elements} & {
        *("script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"),
    }
    assert not names & {"src", "href", "xlink:href", "srcset", "action", "data"}
    assert not any(name.startswith("on") for name in names)
    style = next(element.text for element in elements if element.tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html


def test_headings_descend_one_level_at_a_time(html: str) -> None:
    levels = [int(element.tag[1]) for element in Tree(html).root.all(*HEADINGS)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(two <= one + 1 for one, two in itertools.pairwise(levels))


def test_table_cells_know_their_headers(html: str) -> None:
    tables = list(Tree(html).root.all("table"))
    assert tables
    for table in tables:
        assert next(table.all("caption")).text
        assert {head.attributes["scope"] for head in table.all("th")} == {"col", "row"}
        widths = {len(row.children) for row in table.all("tr")}
        assert len(widths) == 1


def test_charts_have_a_title_and_a_description(html: str) -> None:
    root = Tree(html).root
    charts = [svg for svg in root.all("svg") if svg.attributes.get("role") == "img"]
    ids = [element.attributes["id"] for element in root.all() if "id" in element.attributes]
    assert charts
    assert len(ids) == len(set(ids))
    for chart in charts:
        assert [child.tag for child in chart.children[:2]] == ["title", "desc"]
        assert (chart.attributes["aria-labelledby"] or "").split() == [
            child.attributes["id"] for child in chart.children[:2]
        ]
        assert all(child.text for child in chart.children[:2])
        assert not re.search(r'"(nan|inf|-inf)', html)


def test_the_verdict_and_its_two_numbers_come_first(
    html: str, request: pytest.FixtureRequest
) -> None:
    report = request.getfixturevalue(f"{request.node.callspec.params['html']}_report")
    evaluation = report["evaluation"]
    entry = evaluation["shots"][str(evaluation["headline_shots"])]
    header = next(Tree(html).root.all("header"))
    assert next(header.all("h1")).text == evaluation["verdict"]
    shown = [element.text for element in header.all("dd")]
    assert f"{100 * entry['before']['accuracy']:.1f} %" in shown
    assert f"{100 * entry['after']['accuracy']:.1f} %" in shown


def test_a_report_is_the_same_each_time(demo_report: dict[str, Any]) -> None:
    assert render_report(**demo_report) == render_report(**demo_report)


# ── Content ───────────────────────────────────────────────────────────────────────────────


def test_every_part_of_a_whole_run_is_there(demo_report: dict[str, Any]) -> None:
    root = Tree(render_report(**demo_report)).root
    assert [heading.text for heading in root.all("h2")] == [
        "Accuracy", "By number of shots", "Training", "Samples", "Time", "Recipe", "Data",
    ]  # fmt: skip


def test_a_part_without_facts_is_left_out(minimal_report: dict[str, Any]) -> None:
    root = Tree(render_report(**minimal_report)).root
    assert [heading.text for heading in root.all("h2")] == ["Accuracy", "Samples"]


def test_training_is_shown_by_trls_names(demo_report: dict[str, Any]) -> None:
    assert [series.title for series in training_series(demo_report["events"])] == [
        "Reward", "Format reward", "Correctness reward", "Completion length",
        "Zero-variance groups", "Validation accuracy",
    ]  # fmt: skip


def test_a_number_that_is_not_finite_leaves_a_gap() -> None:
    values = [1.0, None, math.nan, math.inf, 2.0]
    events = [{"event": "step", "step": i, "reward": value} for i, value in enumerate(values)]
    (series,) = training_series(events)
    assert series.points == [(0, 1.0), (4, 2.0)]


def test_a_users_reward_is_shown_after_ours(nasty_report: dict[str, Any]) -> None:
    titles = [series.title for series in training_series(nasty_report["events"])]
    assert titles[1:4] == ["Format reward", "Correctness reward", "<b>my own</b> reward"]
    assert "&lt;b&gt;my own&lt;/b&gt; reward" in render_report(**nasty_report)


def test_only_evaluations_while_training_are_validation() -> None:
    events = [
        {"event": "evaluation", "phase": "evaluate-base", "done": 8, "total": 8, "accuracy": 0.1},
        {"event": "evaluation", "phase": "train", "step": 5, "done": 4, "total": 8},
        {
            "event": "evaluation",
            "phase": "train",
            "step": 5,
            "done": 8,
            "total": 8,
            "accuracy": 0.4,
        },
    ]
    (series,) = training_series(events)
    assert series.points == [(5, 0.4)]


def test_pass_at_k_is_in_the_table(minimal_report: dict[str, Any]) -> None:
    drawn = [{**sample, "greedy": False} for sample in minimal_report["samples"]]
    models = [
        [sample for sample in [*minimal_report["samples"], *drawn] if sample["model"] == model]
        for model in ("before", "after")
    ]
    html = render_report(**{**minimal_report, "evaluation": compare(*models, k=(1,))})
    assert "pass@1 (sampled)" in html


def test_the_recipe_and_the_manifest_are_there_in_full(demo_report: dict[str, Any]) -> None:
    text = text_of(render_report(**demo_report))
    for expected in (
        *(
            "learning_rate: 0.0003",
            "num_generations: 8",
            "answer_marker: '#### The final answer is'",
        ),
        *("9f86d081884c7d65" * 4, "train-7", "answer not a number", "1,788"),
    ):
        assert expected in text


def test_a_report_says_that_prompts_are_chats(demo_report: dict[str, Any]) -> None:
    recipe = demo_report["recipe"]
    chat = {**recipe, "prompt": {**recipe["prompt"], "style": "chat", "system": "Add <two>.\nOk"}}
    text = text_of(render_report(**{**demo_report, "recipe": chat}))
    assert re.search(r"Prompt\s*chat", text)
    assert "Add <two>." in text
    assert not re.search(r"Prompt\s*chat", text_of(render_report(**demo_report)))


def test_a_phase_that_ran_twice_counts_twice_and_one_cut_off_ends_with_its_last_event() -> None:
    events = [
        {"time": 0, "event": "phase", "phase": "train", "state": "started"},
        {"time": 50, "event": "step", "step": 1},
        {"time": 1000, "event": "phase", "phase": "train", "state": "started"},
        {"time": 1020, "event": "phase", "phase": "train", "state": "finished"},
        {"time": 1030, "event": "phase", "phase": "report", "state": "started"},
    ]
    assert phase_seconds(events) == {"train": (70, 2)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.44, "8.4 s"), (59.97, "1 min 00 s"), (750, "12 min 30 s"), (11100, "3 h 05 min")],
)
def test_a_duration_reads_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ── Samples ──────────────────────────────────────────────────────────────────────────────────


def test_a_dozen_samples_stand_open_some_of_each_outcome(demo_report: dict[str, Any]) -> None:
    samples = [sample for sample in demo_report["samples"] if sample["shots"] == 8]
    outcomes = by_outcome(samples)
    shown = choose(outcomes)
    assert sum(shown.values()) == 12
    assert all(shown.values())
    assert choose({**outcomes, "lost": [], "kept": []}) == {
        "gained": 10, "lost": 0, "kept": 0, "missed": 2,
    }  # fmt: skip


def test_the_verifiers_reading_is_described_in_words(minimal_report: dict[str, Any]) -> None:
    text = text_of(render_report(**minimal_report))
    for expected in (
        *("✓ correct", "✗ wrong", "Verifier saw 9", "Verifier saw no answer", "✗ wrong format"),
        *("Wrong before, right after", "Right before, wrong after", "✓ right last number"),
    ):
        assert expected in text


def test_samples_are_those_of_the_shots_that_the_verdict_is_about(
    demo_report: dict[str, Any],
) -> None:
    other = [
        {**sample, "completion": "elsewhere"} if sample["shots"] != 8 else sample
        for sample in demo_report["samples"]
    ]
    assert "elsewhere" not in render_report(**{**demo_report, "samples": other})


def test_a_completion_is_escaped(nasty_report: dict[str, Any]) -> None:
    html = render_report(**nasty_report)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "&lt;/pre&gt;&lt;/style&gt;" in html
    assert "&amp;lt;b&amp;gt;" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", html)
    html.encode("utf-8")


def test_a_truncated_completion_is_cut_and_says_so(nasty_report: dict[str, Any]) -> None:
    html = render_report(**nasty_report)
    assert "x" * 4001 not in html
    assert "… 5,000 characters more in samples.jsonl" in html


def test_a_page_of_a_whole_benchmark_stays_small(demo_report: dict[str, Any]) -> None:
    assert len(render_report(**demo_report)) < 500_000


# ── Style ────────────────────────────────────────────────────────────────────────────────────


def test_text_has_contrast_in_light_and_dark() -> None:
    style = files("rlvr_trainer.report").joinpath("templates/style.css").read_text("utf-8")
    schemes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colour = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for text in ("ink", "muted", "accent"):
            for ground in ("paper", "wash"):
                assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        assert contrast(colour["before"], colour["paper"]) >= 3


def contrast(one: str, two: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


# ── Sweeps and files ─────────────────────────────────────────────────────────────────────────


def runs(rights: dict[Any, int], n: int = 200) -> list[dict[str, Any]]:
    def samples(right: int) -> list[dict[str, Any]]:
        return [
            {
                "shots": 8, "id": f"test-{i}", "greedy": True, "correct": i < right,
                "format": True, "flexible": True, "num_tokens": 5,
            }
            for i in range(n)
        ]  # fmt: skip

    return [
        {
            "field": "prompt.num_shots",
            "value": k,
            "evaluation": compare(samples(20), samples(right)),
        }
        for k, right in rights.items()
    ]


def test_a_sweep_compares_each_value_in_a_chart_and_a_table() -> None:
    html = render_sweep_report(
        [*runs({0: 60, 8: 120}), {"field": "", "value": 16, "evaluation": None}]
    )
    root = Tree(html).root
    table = next(root.all("table"))
    assert [row.children[0].text for row in table.all("tr")] == [
        "prompt.num_shots",
        "0",
        "8",
        "16no evaluation",
    ]
    assert "no evaluation" in table.text
    assert 'class="join after"' in html
    assert "prompt.num_shots 8: before 10.0 %, after 60.0 %" in html


def test_a_sweep_says_whether_the_first_stands_apart() -> None:
    assert (
        "Highest accuracy after training: 60.0 % at prompt.num_shots = 8; its interval lies above "
        "all others."
    ) in render_sweep_report(runs({0: 60, 8: 120}))
    assert (
        "Highest accuracy after training: 60.0 % at prompt.num_shots = 8; its interval overlaps "
        "with that of 4."
    ) in render_sweep_report(runs({0: 60, 4: 115, 8: 120}))
    assert "the only run with an evaluation" in render_sweep_report(runs({8: 120}))


def test_values_that_are_not_numbers_are_not_joined_by_a_line() -> None:
    html = render_sweep_report(runs({"cosine": 60, "<linear>": 120}))
    assert 'class="join after"' not in html
    assert "&lt;linear&gt;" in html


def test_a_sweep_needs_a_run() -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        render_sweep_report([])
    assert "has an evaluation yet" in render_sweep_report(
        [{"field": "seed", "value": 1, "evaluation": None}]
    )


def test_a_report_is_written_whole(tmp_path: Path, nasty_report: dict[str, Any]) -> None:
    html = render_report(**nasty_report)
    write_report(tmp_path / "new" / "report.html", html)
    assert (tmp_path / "new" / "report.html").read_text("utf-8") == html
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_report_needs_no_torch() -> None:
    code = "import sys, rlvr_trainer.report; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
