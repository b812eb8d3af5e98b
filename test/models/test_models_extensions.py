"""Models and training recipes of other installed packages, by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from occ_perception.errors import OccError
from occ_perception.models.card import ModelError
from occ_perception.models.extensions import ExtensionError
from occ_perception.models.zoo import MODELS, find_models

OCC = "from occ_perception.cli import main; main()"
REPOSITORY = Path(__file__).parents[2]
CARDS = """
from dataclasses import replace

from occ_perception.models import alocc
from occ_perception.models.card import ModelCard

CARDS = (replace(alocc.CARDS[0], name="{name}", url=None, config_stem=None),)
"""
RECIPES = """
from occ_training.recipe import TrainingRecipe


def my_alocc():
    return TrainingRecipe(name="my_alocc", model="my_alocc", terms=(), steps=7)


RECIPES = {"my_alocc": my_alocc}
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "my-models"
version = "1.0"

[project.entry-points."occ_perception.models"]
mine = "my_models.cards"

[project.entry-points."occ_training.recipes"]
mine = "my_models.recipes"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a package with one model and its recipe is installed into, by pip."""
    source = tmp_path_factory.mktemp("source")
    (source / "my_models").mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "my_models/__init__.py").touch()
    (source / "my_models/cards.py").write_text(CARDS.format(name="my_alocc"))
    (source / "my_models/recipes.py").write_text(RECIPES)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    options = ["--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run([*pip, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(REPOSITORY), str(REPOSITORY / "training")])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )


def test_an_installed_package_adds_its_model_to_the_commands(site: Path) -> None:
    shown = run(site, "-c", OCC, "models", "show", "my_alocc")
    assert shown.returncode == 0, shown.stderr
    assert "my_alocc" in shown.stdout


def test_and_its_training_recipe(site: Path) -> None:
    listed = run(site, "-m", "occ_training", "recipes")
    assert listed.returncode == 0, listed.stderr
    assert "my_alocc: 7 steps of 16" in listed.stdout


Install = Callable[[str, str, str], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with one module on the path of this process, as an installer leaves it."""

    def install(package: str, module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        entries = f"[occ_perception.models]\n{module} = {module}\n"
        (metadata / "entry_points.txt").write_text(entries)
        monkeypatch.delitem(sys.modules, module, raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_models_are_found_beside_those_of_this_package(installed: Install) -> None:
    installed("other_models", "other_cards", CARDS.format(name="other_alocc"))
    found = find_models()
    assert found.keys() - MODELS.keys() == {"other_alocc"}
    assert found["other_alocc"].config == MODELS["alocc_2d_mini"].config


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("import nothing_of_this_name", ExtensionError,
         "package bad_models adds bad_cards to the entry points occ_perception.models, and it "
         "cannot be imported .ModuleNotFoundError: .*nothing_of_this_name.*uninstall bad_models"),
        ("cards = ()", ExtensionError, "package bad_models adds bad_cards .* has no CARDS"),
        ("CARDS = ('alocc_9d',)", ModelError,
         "CARDS of package bad_models must hold ModelCard values only, got 'alocc_9d'"),
        (CARDS.format(name="fbocc"), ModelError,
         "two models are called fbocc: one of package occ_perception, one of package bad_models"),
    ],
    ids=["import", "no cards", "no card", "name taken"],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_package(
    installed: Install, source: str, kind: type[OccError], message: str
) -> None:
    installed("bad_models", "bad_cards", source)
    with pytest.raises(kind, match=message):
        find_models()


def test_a_command_says_so_in_one_line(installed: Install, tmp_path: Path) -> None:
    installed("bad_models", "bad_cards", "import nothing_of_this_name")
    listed = run(tmp_path, "-c", OCC, "models", "list")
    assert listed.returncode == 2
    assert listed.stderr.startswith("error: package bad_models adds bad_cards")
    assert "Traceback" not in listed.stderr
