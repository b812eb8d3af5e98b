"""The training package: what a robot never has to install."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "occ_training"
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / NAME / "__init__.py").read_text())[1]

setup(
    name=NAME,
    version=VERSION,
    description="Training and evaluation of the occ_perception networks",
    license="Apache-2.0",
    maintainer="The occ_perception authors",
    maintainer_email="maintainers@example.org",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
    install_requires=[
        f"occ_perception[backbones,synthetic]=={VERSION}",
        "lightning>=2.4",
        "tensorboard",
    ],
    entry_points={"console_scripts": ["occ-train = occ_training.cli:main"]},
)
