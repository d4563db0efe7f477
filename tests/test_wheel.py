"""The wheel alone is the library: nothing beside `alignmamba2` is in it, and the main job runs without the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from alignmamba2.encoders import MiniLM
from alignmamba2.encoders.packages import WEIGHTS

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns(".*", "build", "dist", "runs", "data", "*.egg-info", "__pycache__")
FIT = """
from pathlib import Path
import alignmamba2 as am
from alignmamba2.datasets.fetch import data_root
from alignmamba2.experiments import provenance

result = am.fit("mini-mosi", seed=0, fast=True, progress=False, folder="model")
data = am.load_dataset("mini-mosi")
assert am.evaluate(am.AlignMamba2.from_pretrained("model"), data["test"]) == am.evaluate(result.model, data["test"])
assert provenance("")["git_commit"] is None
assert data_root().resolve() == Path("data").resolve()
print(am.__file__)
"""

# A frame, and a hub that is a folder; what stands in README follows.
BEFORE = """
import shutil
import numpy as np, pandas as pd
from PIL import Image
import huggingface_hub
from huggingface_hub import HfApi, RepoUrl

draw = np.random.default_rng(0)
good = draw.permutation(np.arange(200) % 2).astype(bool)
pictures = [Image.fromarray((60 * draw.random((40, 60, 3)) + 150 * k).astype(np.uint8)) for k in good]
texts = [f"{'a lovely' if k else 'a dull'} film, number {i}" for i, k in enumerate(good)]
pictures[::7], texts[3::9] = [None] * len(pictures[::7]), [None] * len(texts[3::9])
texts = [text or ("good" if p is None else None) for text, p in zip(texts, pictures)]
df = pd.DataFrame({"review": texts, "photo": pictures, "verdict": np.where(good, "good", "bad")})
HfApi.create_repo = lambda api, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}")
HfApi.upload_folder = lambda api, folder_path, repo_id, **_: shutil.copytree(folder_path, f"hub/{repo_id}")
huggingface_hub.snapshot_download = lambda name, **_: f"hub/{name}"
"""
AFTER = """
assert am.evaluate(model, data["test"]) == am.evaluate(result.model, data["test"])
assert am.evaluate(model, data["test"])["accuracy"] > 0.8
assert list(table.columns) == ["prediction", "bad", "good"] and len(table) == 200
from pathlib import Path
assert {p.name for p in Path("hub/me/reviews").iterdir()} == {"README.md", "config.json", "model.safetensors"}
print(am.__file__)
"""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "sources", ignore=NOT_SOURCES)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", folder, folder / "sources"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel, which borrows from this one what the wheel depends on."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    (site,) = (path.parent for path in folder.rglob("site-packages/alignmamba2"))
    # A .pth file adds folders, and heeds no .pth file in them: an editable install of the clone is not seen.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(torch.__file__).parents[1])}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n", encoding="utf-8")
    return python


def run(python: Path, folder: Path, *words: str) -> str:
    """What a command prints in an empty folder, without what this process was told of the clone and of data."""
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("ALIGNMAMBA2")}
    done = subprocess.run([python, *words], cwd=folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"alignmamba2"}
    packed = {name for name in names if name.startswith("alignmamba2/")}
    sources = [p for p in (ROOT / "alignmamba2").rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    assert packed == {path.relative_to(ROOT).as_posix() for path in sources}


def test_the_source_distribution_holds_all_of_the_clone(tmp_path):
    """Tests, course, tools and measurements too, so that it tests itself where it is unpacked."""
    shutil.copytree(ROOT, tmp_path / "sources", ignore=NOT_SOURCES)
    files = {p.relative_to(tmp_path / "sources").as_posix() for p in (tmp_path / "sources").rglob("*") if p.is_file()}
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=tmp_path / "sources", check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert files
    assert files - names == set()


def test_fit_runs_with_the_wheel_alone(python, tmp_path):
    assert Path(run(python, tmp_path, "-c", FIT).strip()).is_relative_to(python.parents[1])


@pytest.mark.skipif(
    not (MiniLM.is_present() and WEIGHTS["efficientnet-lite0"].is_present()), reason="no packaged encoders here"
)
def test_own_data_go_to_a_hub_and_back_as_readme_says(python, tmp_path):
    """200 rows of texts and pictures, some missing: trained, evaluated, explored, pushed and loaded in 15 lines."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(r"## Your own data\n.*?```python\n(.*?)```", readme, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip() and line[0] != "#"]) <= 15
    (tmp_path / "own.py").write_text(BEFORE + block + AFTER, encoding="utf-8")
    assert Path(run(python, tmp_path, "own.py").splitlines()[-1]).is_relative_to(python.parents[1])


def test_the_course_comes_with_the_wheel(python, tmp_path):
    assert "16 notebooks are in" in run(python, tmp_path, "-m", "alignmamba2", "course", "here")
    code = "from course import check, stored_results\nfrom course.results import benchmarks\n"
    code += (
        "assert len(list(benchmarks())) >= 3 and stored_results('ablations.json') and stored_results('reproduce.json')"
    )
    run(python, tmp_path / "here" / "notebooks", "-c", code)


def test_doctor_runs_with_the_wheel_alone(python, tmp_path):
    assert "chunked" in run(python, tmp_path, "-m", "alignmamba2", "doctor")
