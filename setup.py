"""Finds the packages: from a checkout through the links in ``edgellama``, or by a table.

``edgellama/quant``, ``convert`` and ``kernels_cpu`` are symbolic links to the folders at the top,
so that an editable install is one plain folder, which type checkers and freezers see, too. A
checkout without links (Windows, some archives) has small text files in their place. There, the
table maps the folders, and the same is installed.
"""

import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SOURCE_FOLDERS = {
    "edgellama": "edgellama",
    "edgellama.quant": "quant",
    "edgellama.convert": "convert",
    "edgellama.kernels_cpu": "kernels_cpu",
}
DATA_PATTERNS = ["py.typed", "*.json", "*.txt", "templates/*.jinja"]
PAGE_PATTERNS = ["page/*", "page/vendor/*", "page/vendor/languages/*"]
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
    places = SOURCE_FOLDERS if not has_links() else {"edgellama": "edgellama"}
    for package, folder in places.items():
        packages.append(package)
        packages += [f"{package}.{name}" for name in find_packages(folder)]
    return packages


class BuildWithHash(build_py):
    """Writes the hashes of the kernels' sources beside them, for applications frozen without."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            kernels = ROOT / SOURCE_FOLDERS["edgellama.kernels_cpu"]
            if not kernels.is_dir():  # a source distribution has them in the package alone
                kernels = ROOT / "edgellama" / "kernels_cpu"
            bound = runpy.run_path(str(kernels / "compiling" / "source_hash.py"))
            built = Path(self.build_lib) / "edgellama"
            for folder, beside in (("kernels_cpu", (bound["FORMATS_FILE"],)), ("cuda", ())):
                text = bound["hash_sources"](built / folder, beside)
                (built / folder / bound["BOUND_NAME"]).write_text(text, "ascii")


setup(
    cmdclass={"build_py": BuildWithHash},
    packages=all_packages(),
    package_dir=package_folders(),
    package_data={
        **dict.fromkeys(all_packages(), DATA_PATTERNS),
        "edgellama.server": PAGE_PATTERNS,
    },
)
