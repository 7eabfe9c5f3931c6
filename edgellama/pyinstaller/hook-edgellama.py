"""What PyInstaller must bundle with edgellama; PyInstaller runs this file and reads its names.

Kernels are imported by name when they are compiled, the version of a package is asked of its
metadata, and compiled code is told apart by a hash of sources that a bundle does not have. If
EDGELLAMA_KERNELS names an exported folder, that is bundled, and Numba left out with its LLVM.
"""

import os
import tempfile
from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, copy_metadata

from edgellama.cuda.ptx_text import card_source_hash
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.compiling.exported_kernels import (
    EXPORT_NAME,
    EXPORT_VARIABLE,
    ExportedKernels,
)
from edgellama.kernels_cpu.compiling.source_hash import BOUND_NAME, source_hash
from edgellama.kernels_cpu.signatures import kernels_by_name, signature_of

PACKAGE, CARD = "edgellama.kernels_cpu", "edgellama.cuda"
MODULES = {f"{PACKAGE}.{signature_of(kernel).module}" for kernel in kernels_by_name().values()}
CARD_MODULES = {f"{CARD}.kernels.{signature.module}" for signature in CARD_SIGNATURES.values()}

datas = copy_metadata("edgellama")
for package, text in ((PACKAGE, source_hash()), (CARD, card_source_hash())):
    bound = Path(tempfile.mkdtemp(prefix="edgellama-hook-")) / BOUND_NAME
    bound.write_text(text or "", "ascii")
    datas.append((str(bound), package.replace(".", "/")))
# Each folder by itself: in a checkout three of them are links, which nothing walks into.
for package in ("edgellama", "edgellama.quant", "edgellama.convert", PACKAGE):
    datas += collect_data_files(package)
# Kernel modules are listed by name. An application without Numba does not import them, but
# PyInstaller must see when they change.
hiddenimports = ["regex", f"{CARD}.ptx_target", *sorted(MODULES | CARD_MODULES)]
excludedimports: list[str] = []

exported = os.environ.get(EXPORT_VARIABLE)
if exported:
    ExportedKernels.open(Path(exported))
    datas.append((str(Path(exported).resolve()), EXPORT_NAME))
    excludedimports += ["numba", "llvmlite"]
else:
    datas += copy_metadata("numba") + copy_metadata("llvmlite")
