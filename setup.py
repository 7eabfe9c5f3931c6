"""Finds the packages: from a checkout through the links in ``edgellama``, or by a table.

``edgellama/quant``, ``convert`` and ``kernels_cpu`` are symbolic links to the folders at the top,
so that an editable install is one plain folder, which type checkers and freezers see as well. A
checkout without links (Windows, some archives) has small text files in their place: there the
table maps the folders, which installs the same.
"""

from pathlib import Path

from setuptools import find_packages, setup

SOURCE_FOLDERS = {
    "edgellama": "edgellama",
    "edgellama.quant": "quant",
    "edgellama.convert": "convert",
    "edgellama.kernels_cpu": "kernels_cpu",
}
DATA_PATTERNS = ["py.typed", "*.json", "*.txt", "templates/*.jinja"]
ROOT = Path(__file__).resolve().parent


def has_links() -> bool:
    """Whether every folder can be reached through the package."""
    places = (package.replace(".", "/") for package in SOURCE_FOLDERS)
    return all((ROOT / place).is_dir() for place in places)


def package_folders() -> dict[str, str]:
    """What ``package_dir`` must say."""
    return {"": "."} if has_links() else SOURCE_FOLDERS


def all_packages() -> list[str]:
    """Every import package, sub-packages included."""
    packages = []
    for package, folder in SOURCE_FOLDERS.items():
        packages.append(package)
        packages += [f"{package}.{name}" for name in find_packages(folder)]
    return sorted(set(packages))


setup(
    packages=all_packages(),
    package_dir=package_folders(),
    package_data=dict.fromkeys(all_packages(), DATA_PATTERNS),
)
