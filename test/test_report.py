"""The page: self-contained, complete where something is missing, and right in its arithmetic."""

from __future__ import annotations

from html.parser import HTMLParser
import json
from pathlib import Path
import re

import numpy as np
import pytest
from tiny_models import build_tiny, make_folder

from quant_llm_ros import cli
from quant_llm_ros.errors import CheckpointError, DatasetError
from quant_llm_ros.quantize.recipe import Recipe
from quant_llm_ros.report import text as words
from quant_llm_ros.report.page import write_page
from quant_llm_ros.report.samples import clusters, nearest_level, relative_error, uniform_levels
from quant_llm_ros.report.sweep_pictures import losses, points
from quant_llm_ros.report.times import read_bench, read_growth
from quant_llm_ros.report.training_log import read_log, TrainingLog

NAME = "<script>alert(1)</script>&"


def contender(name: str, p50: float, p90: float, **more: float):
    """A row of a run of the benchmark."""
    return {"contender": name, "n": 10, "total_ms": {"p50": p50, "p90": p90}, **more}


def point(at: float, p50: float, p90: float | None = None):
    """A point of a curve."""
    return {"at": at, "total_ms": {"p50": p50} | ({} if p90 is None else {"p90": p90})}


SENSITIVITIES = {
    "groups": ["model.embed_tokens.weight", "model.layers.0.mlp.*"],
    "choices": [{"method": "uniform", "bits": 4}, {"method": "uniform", "bits": 8}],
    "effects": [[{"kl_nats": 0.1}, {"kl_nats": 0.001}], [{"kl_nats": 0.2}, {"kl_nats": 0.002}]],
}


BENCH = {
    "contenders": [
        contender("ours, everything off", 400, 600),
        contender("ours, as served", 40, 80, pass_ms_1=8.0, pass_ms_32=32.0, floor_ms=2.0),
        contender(NAME, 60, 90, pass_ms_1=7.0, pass_ms_32=40.0, same_decisions=5),
        contender("the slow one", 200, 300),
    ]
}
GROWTH = {
    "skills": [point(10, 40.0, 60.0), point(500, 160.0, 240.0), {"at": 1000, "total_ms": {}}],
    "places": [point(10_000, 50.0, 60.0)],
    "models": [point(136.0, 30.0), point(1075.0, 180.0)],
}


def document(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def row(
    name: str, right: float, size_mb: float, ms: float, joules: float | None = None, **changes
):
    """A row of a sweep."""
    confusion = [{"meant": "pick; place", "decided": "pick", "n": 2}]
    classes = {"command": {"n": 8, "right": 6}, NAME: {"n": 2, "right": 2}}
    measured = {
        "skills_exact": right,
        "all_exact": right,
        "right": right,
        "perplexity": None,
        "peak_memory_mb": 10.0,
        "prefill_ms": 1.0,
        "decode_ms": 1.0,
        "decision_ms": ms,
        "decisions": 10,
        "joules_per_decision": joules,
        "energy_sensor": "RAPL package-0" if joules else "no sensor",
        "datasets": {"set": {"classes": classes, "confusion": confusion}},
    }
    build = {"bits_per_weight": size_mb / 2, "parameters": 16e6, "target": "ort"}
    return {"name": name, "error": None, "build": build, "measured": measured, **changes}


def sweep(*rows):
    machine = {"model": "a processor", "cores": 2, "architecture": "x86_64"}
    return {"machine": machine, "what": {}, "rows": list(rows)}


class Page(HTMLParser):
    """Checks that tags are closed in their order, and collects what a browser would fetch."""

    VOID = ("meta", "path", "use", "rect", "image", "stop", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A bundle and its recipe."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model").mkdir()
    make_folder(folder / "model")
    bundle = build_tiny(folder, folder / "model")
    return bundle, Recipe.load(folder / "bundle.yaml")


def write(tiny, folder: Path, document, **changes) -> str:
    bundle, recipe = tiny
    output = folder / "report.html"
    settings = {"pictures": folder / "png", "progress": lambda what, part: None, **changes}
    write_page(output, bundle, recipe, document, **settings)
    return output.read_text()


def test_the_whole_page(tiny, tmp_path):
    """One file with every section; names of files are text and no code."""
    log = tmp_path / "log"
    log.write_text(
        "  0 % step 10: loss 1.2, held-out loss 1.5000, held-out exact 10.0%\n"
        "step 20: loss 0.9, held-out loss 1.0000, held-out exact 20.0%, rounded\n"
    )
    rows = [row("tiny", 0.8, 8.0, 5.0, 0.2), row(NAME, 0.9, 64.0, 9.0, 0.4)]
    rows.append({"name": "broken", "error": f"no {NAME}", "build": None, "measured": None})
    text = write(
        tiny,
        tmp_path,
        sweep(*rows),
        logs=[read_log(f"QAT={log}")],
        sensitivities=SENSITIVITIES,
        bench=read_bench(str(document(tmp_path / "bench.json", BENCH))),
        growth=read_growth(str(document(tmp_path / "growth.json", GROWTH))),
    )
    page = Page(text)
    assert page.fetched == []
    names = {about.name for about in vars(words).values() if isinstance(about, words.Section)}
    assert names <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert "url(http" not in text
    assert text.count("<svg") == 13
    assert 'class="absent"' not in text
    assert "prefers-color-scheme:dark" in text
    # Every colour of a picture is a variable of the page, so that it has a dark form.
    assert not re.findall(r"(?:fill|stroke): #", text)
    pictures = sorted(path.stem for path in (tmp_path / "png").iterdir())
    without = {"confusion", "table"}
    assert pictures == sorted(names - without)
    for path in (tmp_path / "png").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_was_not_given_is_said(tiny, tmp_path):
    text = write(tiny, tmp_path, sweep(row("other", 1.0, 8.0, 5.0)))
    assert "Not given. `quant_llm search --sensitivities" in text
    assert "Not given. Give what `quant_llm finetune` printed" in text
    assert "No sensor. The machine of the sweep has no energy sensor" in text
    assert not {"latency", "passes", "growth"} & set(Page(text).ids)  # nothing is missing there


def test_a_sweep_in_which_all_failed(tiny, tmp_path):
    failed = {"name": "broken", "error": "no luck", "build": None, "measured": None}
    text = write(tiny, tmp_path, sweep(failed))
    assert "failed: no luck" in text
    assert text.count("The sweep has no measured row.") == 3


def test_another_model_is_refused(tiny, tmp_path):
    bundle, _ = tiny
    (tmp_path / "model").mkdir()
    make_folder(tmp_path / "model", intermediate_size=64)
    build_tiny(tmp_path, tmp_path / "model", "other")
    with pytest.raises(CheckpointError, match="the bundle was made from another checkpoint"):
        write((bundle, Recipe.load(tmp_path / "other.yaml")), tmp_path, sweep())


def test_the_page_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for output in (tmp_path, tmp_path / "report"):
        with pytest.raises(SystemExit):
            cli.main(["report", "sweep", "--output", str(output)])
        assert "is no name of a page; say R.html" in capsys.readouterr().err


def test_the_front():
    """Better in one of size, time and accuracy, worse in none; a failed row is no point."""
    rows = [
        row("large", 0.9, 64, 9.0),
        row("small", 0.8, 8, 5.0),
        row("slower", 0.8, 8, 6.0),
        row("worse", 0.7, 8, 5.0),
        row("fast", 0.7, 64, 1.0),
        row("twin", 0.9, 64, 9.0),
        {"name": "broken", "build": None, "measured": None},
    ]
    assert [p.name for p in points(rows) if p.best] == ["large", "small", "fast", "twin"]


def test_levels_and_rounding():
    values = np.array([-0.5, 0.07, 0.7])
    levels = uniform_levels(values, 4)
    assert levels == pytest.approx(np.arange(-8, 8) * 0.1)
    assert nearest_level(values, levels) == pytest.approx([-0.5, 0.1, 0.7])
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(0.2)


def test_clusters_are_where_the_values_are():
    values = np.repeat([-3.0, 0.0, 1.0, 8.0], [40, 30, 30, 40])
    assert clusters(values, 4) == pytest.approx([-3, 0, 1, 8])
    normal = np.random.default_rng(0).standard_normal(20_000)
    own = relative_error(normal, nearest_level(normal, clusters(normal, 16)))
    even = relative_error(normal, nearest_level(normal, uniform_levels(normal, 4)))
    # The least error of 16 levels for a normal distribution is 0.0977 (Max 1960, table I).
    assert own == pytest.approx(0.0977, abs=0.003)
    assert own < even


@pytest.mark.parametrize(
    ("text", "steps", "losses", "rounding"),
    [
        ("step 5: loss 1.0, held-out loss 0.50, held-out exact 1.0%", (5,), (0.5,), None),
        (
            "noise\nstep 2: loss 1, held-out loss 0.4, held-out exact 1.0%, rounded\n"
            "step 1: loss 1, held-out loss 0.9, held-out exact 1.0%\n",
            (1, 2),
            (0.9, 0.4),
            2,
        ),
        (
            '{"step": 3, "held_out_loss": 0.25, "rounding": true}\n{"step": "x"}\n{',
            (3,),
            (0.25,),
            3,
        ),
    ],
)
def test_training_logs(tmp_path, text, steps, losses, rounding):
    (tmp_path / "log").write_text(text)
    log = read_log(f"a name={tmp_path / 'log'}")
    assert (log.name, log.steps, log.losses, log.rounding_step) == (
        "a name",
        steps,
        losses,
        rounding,
    )


def test_names_of_curves_that_end_alike_stand_apart():
    ends = {"one": 0.3, "other": 0.31, "level": 17.0}
    logs = [TrainingLog(name, (1, 9), (1.0, end), None) for name, end in ends.items()]
    drawn = losses(logs)
    drawn.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in drawn.axes[0].texts}
    assert boxes.keys() == ends.keys()
    assert boxes["one"].y1 <= boxes["other"].y0
    assert boxes["other"].y1 <= boxes["level"].y0


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("nowhere", "is not of the form NAME=FILE"),
        ("x=nowhere.log", "nowhere.log: No such file"),
        (f"x={__file__.replace('test_report.py', 'data/README.md')}", "has no line «step N"),
    ],
)
def test_wrong_training_logs(argument, says):
    with pytest.raises(DatasetError, match=says):
        read_log(argument)


def test_what_the_page_says_about_times(tmp_path):
    """A sentence for each picture, with the figures that it shows."""
    bench = read_bench(str(document(tmp_path / "bench.json", BENCH)))
    assert bench.served.name == "ours, as served"
    assert bench.said() == (
        "As served, half of the sentences are decided within 40 ms and nine in ten within 80 ms; "
        "with everything off, it takes 400 ms, 10.0 times as long. The fastest of the other "
        f"runtimes, {NAME}, takes 60 ms, 1.5 times as long."
    )
    assert bench.passes_said() == (
        "As served, 32 tokens take 32 ms and a single one 8.0 ms: 4.0 times as long for 32 times "
        "as many. Only to read the weights once takes 2.0 ms; the pass over a single one takes "
        "4.0 times that."
    )
    assert [one.same for one in bench.contenders] == [None, None, 0.5, None]
    skills, places, models = read_growth(str(document(tmp_path / "growth.json", GROWTH)))
    assert skills.said() == "skills from 10 to 500: 40 to 160 ms, 4.0 times as long"
    assert places.said() == "10,000 known places: 50 ms"
    assert models.said() == "million weights from 136 to 1,075: 30 to 180 ms, 6.0 times as long"
    assert (skills.p90_ms, models.p90_ms) == ((60.0, 240.0), ())


def test_a_run_of_one_contender_without_passes(tiny, tmp_path):
    only = {"contenders": [contender("ours, as served", 40, 80)]}
    bench = read_bench(str(document(tmp_path / "bench.json", only)))
    text = write(tiny, tmp_path, sweep(), bench=bench)
    assert "within 40 ms and nine in ten within 80 ms.</p>" in text
    assert {"latency"} == {"latency", "passes", "growth"} & set(Page(text).ids)


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (read_bench, None, "No such file"),
        (read_bench, "{", "is not what `quant_llm bench --output` writes"),
        (read_bench, GROWTH, "is not what `quant_llm bench --output` writes: KeyError"),
        (read_bench, {"contenders": []}, "IndexError"),
        (read_bench, {"contenders": [contender("x", 1, 2)]}, "no measurement of this package"),
        (read_bench, {"contenders": [contender("ours", 0, 2)]}, "0 is not a number above zero"),
        (read_growth, BENCH, "is not what `quant_llm growth --output` writes: KeyError"),
        (read_growth, [], "AttributeError"),
        (read_growth, {"skills": [{"at": 1, "total_ms": {}}]}, "no point was measured"),
        (read_growth, {"skills": [point(1, float("nan"))]}, "nan is not a number above zero"),
        (read_growth, {"skills": [5]}, "TypeError"),
    ],
)
def test_wrong_files_of_times(tmp_path, read, content, says):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DatasetError, match=says) as caught:
        read(str(file))
    assert str(file) in str(caught.value)
