"""The figures of the README show what the records hold."""

from __future__ import annotations

import re
from collections import Counter
from statistics import median
from typing import Any

import matplotlib
import pytest

from tests.benchmarks import figures, leases

WORDS = re.compile(r"<text[^>]*>([^<]*)</text>")
COLUMNS = [
    ("float32", 1, False),
    ("float32", 32, False),
    ("float16", 1, False),
    ("float16", 32, False),
    ("float32", 1, True),
]
BY = re.compile(r"Matplotlib v([\d.]+)")


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_as_the_records_are_now(name, tmp_path):
    committed = (figures.RESULTS / f"{name}.svg").read_text()
    figures.drawn(name, tmp_path / "again.svg")
    again = (tmp_path / "again.svg").read_text()
    assert WORDS.findall(again) == WORDS.findall(committed)
    if BY.search(committed)[1] == matplotlib.__version__:
        assert again == committed


def test_what_is_drawn_is_what_was_measured():
    words = " ".join(WORDS.findall((figures.RESULTS / "left.svg").read_text()))
    rows = figures.unfinished()
    assert f"of {sum(row['batch_norms'][0] for row in rows)} in {len(rows)}" in words
    assert f"bnfold: {sum(row['batch_norms'][1] for row in rows)}," in words
    assert all(row["best_peer"] == min(row["peers"].values()) for row in rows)


def readme() -> str:
    """The README and the pages of docs, their lines joined."""
    return " ".join(pages().split())


def pages() -> str:
    """The README and the pages of docs, one after another."""
    root = figures.RESULTS.parents[2]
    return "\n\n".join(path.read_text() for path in (root / "README.md", *sorted(root.glob("docs/*.md"))))


def test_the_readme_shows_what_the_architectures_keep():
    text = readme()
    left, every = figures.unfinished(), figures.record("zoo_cpu.json")["rows"]
    before, after, peers = totals(left)
    assert f"In {len(left)} architectures onnxslim and onnxruntime leave {peers}, bnfold leaves {after}," in text
    assert f"`tests/zoo_models.py`) | {before} | {after} | {peers} |" in text
    assert "| all {} | {} | {} | {} |".format(len(every), *totals(every)) in text
    same = sum(row["batch_norms"][1] == row["best_peer"] for row in left)
    assert f"In {same} of the {len(left)} bnfold leaves as many as the others" in text


def totals(rows: list[dict[str, Any]]) -> tuple[int, int, int]:
    """BatchNormalization before, kept by bnfold, kept by the best other tool."""
    pairs = [row["batch_norms"] for row in rows]
    return sum(a for a, _ in pairs), sum(b for _, b in pairs), sum(row["best_peer"] for row in rows)


def test_the_readme_shows_what_was_measured_on_the_cpu():
    """Each row of the table is that of the record."""
    text = pages()
    table = text[text.index("| model | BN before, after |") :]
    assert cells_of(table[: table.index("\n\n")]) == [
        [
            row["name"],
            *("{original}, {folded}".format(**row[what]) for what in ("batch_normalizations", "nodes")),
            "{ratio:.2f} [{low:.2f}, {high:.2f}]".format(**row["over original"]),
            "{ratio:.3f} [{low:.3f}, {high:.3f}]".format(**row["over timm"]),
        ]
        for row in figures.record("reparameterized_cpu.json")
    ]


def test_the_readme_says_how_many_planted_faults_are_found():
    rows = figures.record("mutations_cpu.json")["rows"]
    ours = sum(row["verdict"] == "FAIL" for row in rows)
    theirs = [sum(row[tool] for row in rows) for tool in ("onnxsim", "onnxslim")]
    assert (
        f"of {len(rows)} planted faults of {len({row['fault'] for row in rows})} kinds bnfold finds {ours};" in readme()
    )
    assert "that onnxsim applies to outputs finds {}, that of onnxslim {} (".format(*theirs) in readme()


def test_the_readme_says_what_faultless_folds_get():
    rows = figures.record("false_alarms_cpu.json")["rows"]
    verdicts = Counter(verdict for row in rows for verdict in row["verdicts"])
    assert f"Of {len(rows)} faultless folds with three seeds it calls none FAIL" in readme()
    assert f"{verdicts['PASS']} PASS, and {verdicts['INCONCLUSIVE']} INCONCLUSIVE" in readme()
    assert not verdicts["FAIL"]


def test_the_readme_says_what_unusual_graphs_showed():
    found = figures.record("api_fuzz.json")
    assert f"of {found['judged']:,} that onnxruntime runs, none was wrong, invalid or an exception" in readme()
    assert found["faults"] == []


def test_the_readme_says_what_a_fold_costs():
    rows = {row["tool"]: row for row in figures.record("against_peers_cpu.json")["rows"] if row["model"] == "vgg11_bn"}
    ours = rows["bnfold"]
    assert f"bnfold {median(ours['seconds']):.1f} s and {ours['peak_mb']:.0f} MB of memory" in readme()
    for tool in ("onnxruntime", "onnxscript", "onnxslim", "onnxsim", "onnxoptimizer"):
        assert f"{tool} {median(rows[tool]['seconds']):.2g} s and {rows[tool]['peak_mb'] / 1000:.1f} GB" in readme()


def test_the_readme_shows_how_a_fold_grows():
    text = readme()
    growth = figures.record("scale_cpu.json")["growth"]
    ratios = [each["seconds ratio"] for each in growth]
    assert f"takes {min(ratios):.1f} to {max(ratios):.1f} times as long" in text
    large = [row["seconds"] for each in growth for row in each["rows"] if row["nodes"] >= 100_000]
    assert f"100,000 nodes in {min(large):.0f} to {max(large):.0f} s" in text


def interval(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def test_the_readme_shows_what_was_measured_on_cuda():
    """Each row of the table is that of the record."""
    text = pages()
    table = text[text.index("| model | float32, batch 1 |") :]
    shown = {cells[0].split(",")[0]: cells[1:] for cells in cells_of(table[: table.index("\n\n")])}
    expected: dict[str, list[str]] = {}
    for row in figures.on_cuda():
        setting = (row["precision"], row["batch"], row["cuda_graph"])
        if setting in COLUMNS:
            expected.setdefault(row["name"], [""] * len(COLUMNS))[COLUMNS.index(setting)] = interval(row)
    assert shown == expected


def cells_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_readme_names_the_verdicts_on_cuda():
    text = readme()
    passed = [m["name"] for m in leases.read(figures.RESULTS / "verify_cuda.json") if m["verdict"] == "PASS"]
    assert len(passed) == 10
    assert f"| PASS | {', '.join(passed)} |" in text


def test_the_readme_says_what_batch_normalization_over_rows_costs_on_cuda():
    """The sentences on levit_128s and its BatchNormalizations are the record's, of the newest lease."""
    text = readme()
    rows = [row for row in leases.read(figures.RESULTS / "levit_cuda.json") if "bnfold" in row["lease"]]
    alone = {row["N"]: row for row in rows if row["graph"] == "BatchNormalization [N, C]" and row["C"] == 128}
    whole = {row["tf32"]: row for row in rows if row.get("batch") == 32 and row["optimization"] == "default"}
    assert f"{alone[6272]['ms'][0]:.1f} ms at 6272 x 128, {alone[6272]['ms'][1]:.2f} ms folded" in text
    assert alone[65536]["ms"][0] is None
    assert f"{whole[True]['ms'][0]:.1f} ms as exported, {whole[True]['ms'][1]:.1f} ms folded" in text
    assert f"{whole[True]['from each other']:.2f} apart" in text
    assert all(round(each, 2) >= 0.05 for each in whole[True]["from the CPU"])
    assert max(whole[False]["from the CPU"]) < 1.2e-4


def test_the_page_on_gpus_shows_what_a_matmul_and_its_batch_normalization_cost():
    """The table is the record's, of the newest lease, without TF32."""
    table = pages()[pages().index("| N x C |") :]
    head, first, second = table[: table.index("\n\n")].replace("|---|---|---|---|---|---|\n", "").splitlines()
    rows = [row for row in leases.read(figures.RESULTS / "levit_cuda.json") if "bnfold" in row["lease"]]
    kind = [row for row in rows if row["graph"] == "MatMul, BatchNormalization [N, C]" and not row["tf32"]]
    known = {f"{row['N']} x {row['C']}": row["ms"] for row in kind}
    shown = zip(*(map(str.strip, line.strip("|").split("|")[1:]) for line in (head, first, second)), strict=True)
    for size, before, after in shown:
        assert [before, after] == ["does not run" if ms is None else f"{ms:.3f}" for ms in known[size]], size


def test_the_readme_shows_what_random_graphs_found():
    """The table of tools is the record's, with each tool's version; onnxruntime declines what it cannot run."""
    text = pages()
    table = text[text.index("| tool | folded | raised an error |") :]
    found = figures.record("differential.json")["summary"]
    assert cells_of(table[: table.index("\n\n")]) == [
        peer(tool, each, found["graphs"])
        for tool, each in sorted(found["tools"].items(), key=lambda item: -item[1]["folded"])
    ]
    assert {each["crashed"] + each["hung"] + each["opening crashes"] for each in found["tools"].values()} == {0}
    words = f"In all {sum(each['disagree'] for each in found['tools'].values())} disagreements with bnfold"
    assert words in text
    assert all(each["disagree"] == each["bnfold right"] for each in found["tools"].values())


def peer(tool: str, each: dict[str, Any], graphs: int) -> list[str]:
    ran = f" (of the {graphs - each['declined']} that it runs)" if each["declined"] else ""
    mark = "**" if tool == "bnfold" else ""
    broken = f", and {each['does not run']} that do not run" if each["does not run"] else ""
    counts = [f"{mark}{each['folded']}{mark}", str(each["raised"]), f"{each['invalid']}{broken}"]
    return [f"{mark}{tool}{ran}{mark}", *counts, str(each["wrong"]), str(each["override lost"])]


def test_what_each_piece_that_saves_time_saves():
    ratios = {(r["without"], r["model"]): median(r["ratios"]) for r in figures.record("removals_cpu.json")["rows"]}
    models = dict.fromkeys(model for _, model in ratios)
    text = pages()
    for piece in dict.fromkeys(piece for piece, _ in ratios):
        assert f"| {piece} | {' | '.join(f'{ratios[piece, model]:.2f}' for model in models)} |" in text
        assert piece == "nothing" or max(ratios[piece, model] for model in models) > 1.03


def test_what_is_said_of_quantized_networks():
    text, forms = readme(), ("QDQ per channel", "QDQ per tensor", "QAT")
    kept = {(row["name"], row["kind"]): row for row in figures.record("quantized_zoo_cpu.json")["rows"]}
    fast = {(row["name"], row["form"]): row for row in figures.record("quantized_latency_cpu.json")["rows"]}
    for name in dict.fromkeys(name for name, _ in kept):
        before = kept[name, "QLinear"]["before"]
        (after,) = {kept[name, form]["after"] for form in forms}
        assert {count for form in forms for count in kept[name, form]["peers"].values()} == {before}
        ratios = [f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in (fast[name, form] for form in forms)]
        assert (
            f"| {name} | {before} | {after} | {kept[name, 'QLinear']['after']} | {before} | {' | '.join(ratios)} |"
            in text
        )
    ratios = [f"{fast[name, forms[0]]['ratio']:.2f}" for name in ("resnet18", "mobilenetv2", "repvgg_a0")]
    assert "On the CPU resnet18 runs {} times as fast, mobilenetv2 {}, RepVGG {} (".format(*ratios) in text


def test_what_is_said_of_random_quantized_graphs_and_planted_faults():
    found, rows = (
        figures.record("differential_quantized_cpu.json")["summary"],
        figures.record("quantized_faults_cpu.json")["rows"],
    )
    ours = found["tools"]["bnfold"]
    assert not any(ours[kind] for kind in ("wrong", "invalid", "does not run", "crashed", "raised"))
    words = f"with {found['batch_normalizations']:,} BatchNormalizations bnfold folds {ours['folded']:,} and gets none wrong"
    assert f"In {found['graphs']:,} random quantized graphs" in readme()
    assert words in readme()
    noticed = sum(row["verdict"] == "FAIL" for row in rows)
    assert (
        f"Of {len(rows)} faults planted in scales, signs, integers, zero points, axes and biases `bnfold verify` finds {noticed}"
        in readme()
    )
