"""Maps the top-level source folders into the one import package ``edgellama``."""

from setuptools import find_packages, setup

SOURCE_FOLDERS = {
    "edgellama": "edgellama",
    "edgellama.quant": "quant",
    "edgellama.convert": "convert",
    "edgellama.kernels_cpu": "kernels_cpu",
}

DATA_PATTERNS = ["py.typed", "*.json", "*.txt", "*.jinja"]


def all_packages() -> list[str]:
    """Every import package, sub-packages included."""
    packages = []
    for package, folder in SOURCE_FOLDERS.items():
        packages.append(package)
        packages += [f"{package}.{name}" for name in find_packages(folder)]
    return packages


setup(
    packages=all_packages(),
    package_dir=SOURCE_FOLDERS,
    package_data=dict.fromkeys(all_packages(), DATA_PATTERNS),
)
