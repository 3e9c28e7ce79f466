"""README and the pages of docs/ against the code: what they name exists, and what they must name is there."""

import ast
import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pirl_core.params.file import Run
from pirl_core.params.preset import preset_names, preset_values
from pirl_core.params.sections import Params
from pirl_core.report.older import present_digest
from pirl_core.report.pages import ABSENT, MARK, OF_SCALE, block, written
from pirl_core.report.twins import TWINS, is_part
from tests.docs import benchmarks as docs_benchmarks
from tests.docs import parameters as docs_parameters

# Scales with a section in docs/results.md: not the shortest one, nor the parts of the paper's, which have a page.
OWN_SECTION = [name for name in preset_names() if name != "smoke" and not any(is_part(name, twin) for twin in TWINS)]
README_LINES = 200
ENVIRONMENT_LINES = 40

METRIC = re.compile(r'["`]((?:losses|charts|validation|time)/\w+|data/episod\w+)["`]')


def pages(root: Path) -> dict[Path, str]:
    """README, that of results/, the pages of docs/ and the benchmarks' own, by their paths."""
    found = [
        root / "README.md",
        root / "results/README.md",
        *(root / "docs").rglob("*.md"),
        *(root / "pirl_core/envs").glob("*/README.md"),
    ]
    return {path: path.read_text(encoding="utf-8") for path in found}


@pytest.fixture
def text(root: Path) -> str:
    """All pages as one."""
    return "\n".join(pages(root).values())


def section(root: Path, page: str, title: str) -> str:
    text = (root / "docs" / page).read_text(encoding="utf-8")
    return re.split(r"^#{1,2} ", re.split(rf"^#+ {title}\n", text, flags=re.MULTILINE)[1], flags=re.MULTILINE)[0]


def without_fences(page: str) -> str:
    return re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)


def code(text: str) -> list[str]:
    """Lines of fenced and indented blocks, and inline code."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?<=\n\n)(?: {4}[^ *].*\n)+", text)
    inline = re.findall(r"`([^`\n]+)`", without_fences(text))
    return [line.strip() for block in (*fenced, *indented) for line in block.splitlines()] + inline


def definitions(path: Path) -> set[str]:
    """Functions and classes of a module, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def anchors(page: str) -> set[str]:
    """Of the headings, as GitHub and mkdocs make them of plain words."""
    titles = re.findall(r"^#+ (.+)$", without_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def named_pages(nav: Any) -> list[str]:
    """The pages of mkdocs.yml's nav, in their order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in named_pages(part)]


def test_paths_and_definitions_exist(text: str, root: Path) -> None:
    spans = code(text)
    tables = section(root, "methods.md", "Where each equation lives")
    assert len(set(re.findall(r"`[\w/]+\.py:[\w.]+`", tables))) > 20
    place = re.compile(r"((?:pirl_core|flows|benchmarks|docs|tests)/[\w/]+\.\w+)(?::([\w.]+))?")
    for path, name in itertools.chain(*(place.findall(span) for span in spans)):
        assert (root / path).is_file(), path
        assert not name or name in definitions(root / path), f"{path}:{name}"
    for module in set(
        itertools.chain(
            *(re.findall(r"python -m ((?:pirl_core|flows|benchmarks|tests)[\w.]*\w)", span) for span in spans)
        )
    ):
        path = root.joinpath(*module.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


def test_every_equation_has_its_place(root: Path) -> None:
    table = section(root, "methods.md", "Where each equation lives")
    rows = re.findall(r"^\| Eq\. (\d+)(?:(?: to |, )(\d+))?", table, re.MULTILINE)
    listed = [number for low, high in rows for number in range(int(low), int(high or low) + 1)]
    assert listed == list(range(3, 19))


def test_the_glossary_is_what_the_code_logs(text: str, root: Path) -> None:
    logged = set()
    for path in (root / "pirl_core").rglob("*.py"):
        logged |= set(METRIC.findall(path.read_text(encoding="utf-8")))
    assert set(METRIC.findall(section(root, "metrics.md", "Metric glossary"))) == logged
    assert set(METRIC.findall(text)) == logged


def test_every_column_of_the_report_is_explained(root: Path) -> None:
    headers = set()
    for node in ast.walk(ast.parse((root / "pirl_core/report/tables.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "header" for target in targets):
                words = [part for part in ast.walk(node.value) if not isinstance(part, ast.JoinedStr)]
                headers |= {
                    word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)
                }
    # Of Len-1 % and so on only the pieces are in the code.
    headers -= {"Len-", " %"}
    assert len(headers) > 15
    explained = set(re.findall(r"`([^`]+)`", section(root, "metrics.md", "Columns of the report")))
    assert headers - explained == set()


def test_make_targets_and_scales_exist(text: str, root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    spans = code(text)
    named = {name for span in spans for name in re.findall(r"^make ([a-z-]+)", span)}
    assert {"reproduce", "test", "help"} <= named <= targets
    scales = {name for span in spans for name in re.findall(r"SCALE=(\w+)", span)}
    assert scales <= set(preset_names())
    variables = {name for span in spans for name in re.findall(r"PIRL_\w+", span)}
    source = "".join(path.read_text(encoding="utf-8") for path in (root / "pirl_core").rglob("*.py"))
    assert variables
    assert variables == set(re.findall(r"\bPIRL_[A-Z_]+\b", source))


def test_parameters_exist(text: str, root: Path) -> None:
    """`rl.actor_lr` and the like are keys of their section; stages in commands are stages of the default experiment."""
    names = (*Run._fields, "risk", "report")
    sections = {name: field.annotation for name, field in Params.model_fields.items() if name in names}
    parameter = re.compile(rf"^({'|'.join(names)})\.(\w+)(?::|$)")
    for name, key in itertools.chain(*(parameter.findall(span) for span in code(text))):
        if key not in ("py", "md", "yaml"):
            assert key in sections[name].model_fields, f"{name}.{key}"  # type: ignore[union-attr]
    params = preset_values("laptop")
    for experiment, method, seed in re.findall(r"rl@(\w+)-(\w+)-(\d+)", text):
        assert experiment in params["experiments"]
        assert method in params["methods"]
        assert int(seed) in params["seeds"]


def test_results_and_licence_are_in_place(root: Path, committed: Path) -> None:
    """The pages show what git has in results/; a run of one's own leaves other results there."""
    for path, text in written(root, committed, present_digest).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run make results"
    assert "![" in (root / "README.md").read_text(encoding="utf-8").split("## ")[0]
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")


def test_no_result_is_typed_by_hand(root: Path) -> None:
    """Pages that tell of results have them between marks, and every scale that is meant for here has marks."""
    shown = set()
    for path, page in pages(root).items():
        shown |= set(OF_SCALE.findall(page))
        by_hand = re.sub(r"<!-- results.*?:begin -->.*?<!-- results.*?:end -->", "", page, flags=re.DOTALL)
        name = path.relative_to(root).as_posix()
        if name.startswith(("README.md", "results/", "docs/results.md", "docs/differences.md", "docs/benchmarks/")):
            found = re.findall(r"\d+(?:\.\d+)? ?%|\b\d+ of \d+\b|\b\d+/\d+\b|[+−]\d+\.\d", without_fences(by_hand))
            assert set(found) <= {"95 %"}, path
    assert shown == set(OWN_SECTION)


def test_a_scale_that_was_not_run_says_so(tmp_path: Path, root: Path) -> None:
    for name in ("README.md", "docs/results.md", "results/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    texts = written(tmp_path, tmp_path / "results", lambda *_: "")
    assert block(texts[tmp_path / "results/README.md"], MARK) == f"{ABSENT}\n"
    assert [text.count(ABSENT) for text in texts.values()] == [1, 1, len(OWN_SECTION)]
    # Later results take the place of it, and what stands around the marks stays.
    for path, text in texts.items():
        path.write_text(text)
    for scale in ("zoo", "laptop", "smoke"):
        shutil.copytree(root / "results/laptop", tmp_path / "results" / scale)
    again = written(tmp_path, tmp_path / "results", lambda *_: "")
    assert re.findall(r"^## (\w+)$", again[tmp_path / "results/README.md"].split("<!--")[1], re.MULTILINE) == [
        "laptop", "zoo", "smoke",
    ]  # fmt: skip
    readme = tmp_path / "README.md"
    assert again[readme].replace(block(again[readme], f"{MARK}:laptop"), f"{ABSENT}\n") == texts[readme]
    assert "RL − SFT**" not in again[readme] and "RL − SFT**" in again[tmp_path / "docs/results.md"]


def test_rendered_pages_are_up_to_date(root: Path) -> None:
    page = docs_parameters.PAGE.read_text(encoding="utf-8")
    tables = docs_parameters.render()
    assert block(page, docs_parameters.MARK) == tables, "run python -m tests.docs.parameters"
    for name in docs_benchmarks.NAMES:
        for path in docs_benchmarks.pages(name):
            facts = block(path.read_text(encoding="utf-8"), docs_benchmarks.MARK)
            assert facts == docs_benchmarks.render(name), f"{path}: run python -m tests.docs.benchmarks"


def test_every_parameter_says_what_it_is() -> None:
    tables = docs_parameters.render()
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \| [^|]*\|$", tables, re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


def test_short_pages_stay_short(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
    for name in docs_benchmarks.NAMES:
        page = root / "pirl_core/envs" / name / "README.md"
        assert len(page.read_text(encoding="utf-8").splitlines()) <= ENVIRONMENT_LINES, page


def test_every_page_is_in_the_site(root: Path) -> None:
    site = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = named_pages(site["nav"])
    assert sorted(listed) == sorted(
        path.relative_to(root / "docs").as_posix() for path in (root / "docs").rglob("*.md")
    )
    reached = re.findall(r"\]\(docs/([\w/]+\.md)", (root / "README.md").read_text(encoding="utf-8"))
    assert set(listed) - set(reached) <= {f"benchmarks/{name}.md" for name in docs_benchmarks.NAMES}


def test_links_lead_somewhere(root: Path) -> None:
    """Relative ones, to a file and to a heading of it; what the site has stays within docs/."""
    texts = pages(root)
    seen = 0
    for page, content in texts.items():
        for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", without_fences(content)):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.is_file(), f"{page}: {target}"
            assert root / "docs" not in page.parents or root / "docs" in path.parents, f"{page}: {target}"
            assert not anchor or anchor in anchors(texts[path]), f"{page}: {target}"
            seen += 1
    assert seen > 80
