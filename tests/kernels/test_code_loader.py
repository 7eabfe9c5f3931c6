"""The loader of compiled kernels: what it makes of objects, and what it refuses."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness.kernels import TIERS, KernelRunner, runner_of, tier_name
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding
from raw_files.elf_bytes import (
    ARM_LINUX,
    ARM_MAC,
    NAME,
    SUM,
    TABLE,
    X86_LINUX,
    X86_WINDOWS,
    sample_object,
)

from edgellama.kernels_cpu.compiling.code_cache import cache_folder
from edgellama.kernels_cpu.compiling.code_loader import Layout, LoadedCode, system_function
from edgellama.kernels_cpu.compiling.compile_worker import read_checked
from edgellama.kernels_cpu.compiling.elf_object import ElfObject, this_machine
from edgellama.kernels_cpu.compiling.relocations import AARCH64, X86_64
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.machine.executable_memory import ExecutableMemory
from edgellama.kernels_cpu.threads.thread_team import ENTRY
from edgellama.quant.errors import KernelError

BASE = 0x7F0000000000
MACHINE_OF = {X86_LINUX: X86_64, X86_WINDOWS: X86_64, ARM_LINUX: AARCH64, ARM_MAC: AARCH64}
FAR_FUNCTION = 0x123456789ABC
HOST = {X86_64: X86_LINUX, AARCH64: ARM_LINUX}[this_machine()]


def parsed(triple: str = HOST, code_model: str = "small") -> ElfObject:
    """The sample for a machine."""
    return ElfObject.parse(sample_object(triple, code_model), NAME, MACHINE_OF[triple])


def written_by(code: LoadedCode, thread: int = 0, num_bytes: int = 0) -> bytes:
    """What the sample writes when it runs."""
    memory = np.full(64, 0xEE, np.uint8)
    ENTRY(code.addresses[NAME])(memory.ctypes.data, thread, num_bytes)
    return memory.tobytes()


CODE_MODELS = {X86_64: ("small", "large"), AARCH64: ("small",)}[this_machine()]
"""Arm's large one writes addresses into instructions, which kernels never have done."""


@pytest.mark.parametrize("code_model", CODE_MODELS)
def test_code_constants_and_calls(code_model: str) -> None:
    """Loaded code reads its constants and calls memcpy, whatever the distances in the object."""
    code = LoadedCode([parsed(HOST, code_model), parsed(HOST)])
    for thread, number in enumerate((11, 22)):
        expected = struct.pack("<4fq3f", *SUM, number, *TABLE[:3]) + b"\xee" * 28
        assert written_by(code, thread, num_bytes=12) == expected


def mapping_of(address: int) -> str | None:
    """The rights of the page at an address, as Linux tells them."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if int(first, 16) <= address < int(last, 16):
            return line.split()[1]
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_never_writable_and_executable() -> None:
    """Code can be read and run, constants read alone, and the pages go with the object."""
    code = LoadedCode([parsed()])
    start = code.addresses[NAME]
    layout = Layout.of([parsed()])
    assert mapping_of(start) == "r-xp"
    assert mapping_of(start + layout.code_bytes) == "r--p"
    del code
    assert mapping_of(start) is None


def test_system_that_forbids_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pages cannot be made executable, the error says what must allow it."""
    memory = ExecutableMemory(1)
    memory.address += 8  # No page begins there.
    with pytest.raises(KernelError, match=r"lets no memory be executed.*security settings"):
        memory.fill(b"", memory.num_bytes)
    memory.address -= 8
    with pytest.raises(KernelError, match="do not fit"):
        memory.fill(bytes(memory.num_bytes + 1), 0)


def arm_targets(image: bytes, layout: Layout) -> Iterator[tuple[str, int, int]]:
    """(kind, address that the instructions compute, address meant) of each relocation."""
    (item,), (places,) = layout.objects, layout.sections
    page = 0
    for relocation in item.relocations:
        at = places[relocation.section] + relocation.offset
        (word,) = struct.unpack_from("<I", image, at)
        symbol = relocation.symbol
        meant = BASE + relocation.addend + (
            layout.stubs[symbol.name] if symbol.section is None
            else places[symbol.section] + symbol.offset
        )  # fmt: skip
        kind = relocation.kind.name.removeprefix("R_AARCH64_")
        if kind == "ADR_PREL_PG_HI21":
            pages = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
            page = (BASE + at & ~0xFFF) + (pages - (pages >> 20 << 21) << 12)
            yield kind, page, meant & ~0xFFF
        elif kind.endswith("LO12_NC"):
            scale = {"ADD": 0, "LDST64": 3, "LDST128": 4}[kind.partition("_")[0]]
            yield kind, page + ((word >> 10 & 0xFFF) << scale), meant
        else:
            distance = (word & 0x3FFFFFF) - ((word >> 25 & 1) << 26)
            yield kind, BASE + at + 4 * distance, meant


@pytest.mark.parametrize("triple", [ARM_LINUX, ARM_MAC])
def test_objects_of_arm(triple: str) -> None:
    """In an image for Arm every instruction reaches its constant or its jump to memcpy."""
    layout = Layout.of([parsed(triple)])
    image = layout.image(BASE, lambda name: FAR_FUNCTION)
    found = list(arm_targets(image, layout))
    assert {kind for kind, _, _ in found} >= {"ADR_PREL_PG_HI21", "CALL26", "LDST128_ABS_LO12_NC"}
    assert all(reached == meant for _, reached, meant in found)
    (stub,) = layout.stubs.values()
    jump = struct.pack("<IIQ", 0x58000050, 0xD61F0200, FAR_FUNCTION)  # ldr x16, 8; br x16
    assert image[stub : stub + 16] == jump


def test_objects_of_windows() -> None:
    """An object for Windows is read and placed like any other, and reads its own arguments."""
    layout = Layout.of([parsed(X86_WINDOWS)])
    image = layout.image(BASE, lambda name: FAR_FUNCTION)
    (stub,) = layout.stubs.values()
    assert image[stub : stub + 14] == b"\xff\x25\0\0\0\0" + struct.pack("<Q", FAR_FUNCTION)
    assert sample_object(X86_WINDOWS) != sample_object(X86_LINUX)


@given(base=st.integers(1, 1 << 34).map(lambda page: page << 12))
def test_images_depend_on_no_address(base: int) -> None:
    """Wherever it lies, code whose constants lie beside it has the same bytes but for its calls."""
    layout = Layout.of([parsed(), parsed()])
    images = [layout.image(at, lambda name: FAR_FUNCTION) for at in (base, BASE)]
    assert images[0] == images[1]


# What is refused


def section_table(content: bytes) -> tuple[int, int]:
    """Where the headers of the sections lie, and how many there are."""
    at, count = struct.unpack_from("<Q12xH", content, 40)
    return at, count


def changed(where: Callable[[bytes], int], code: str, value: int) -> bytes:
    """The sample with one number overwritten."""
    content = bytearray(sample_object(HOST))
    struct.pack_into(f"<{code}", content, where(bytes(content)), value)
    return bytes(content)


def header_of(kind: int, flags: int | None = None) -> Callable[[bytes], int]:
    """Where the header of the first section of a kind lies."""

    def find(content: bytes) -> int:
        at, count = section_table(content)
        starts = [at + 64 * number for number in range(count)]
        headers = ((start, struct.unpack_from("<4xIQ", content, start)) for start in starts)
        return next(s for s, (k, f) in headers if k == kind and flags in (None, f))

    return find


def behind(find: Callable[[bytes], int], offset: int) -> Callable[[bytes], int]:
    """A place behind another."""
    return lambda content: find(content) + offset


def first_of(kind: int, offset: int) -> Callable[[bytes], int]:
    """A place in the content of the first section of a kind."""

    def find(content: bytes) -> int:
        (at,) = struct.unpack_from("<Q", content, header_of(kind)(content) + 24)
        return int(at) + offset

    return find


CODE, CONSTANT = header_of(1, 6), header_of(1, 2)
SYMTAB, STRTAB, RELA = 2, 3, 4
BAD = {
    "magic": (changed(lambda c: 0, "B", 0), "no 64-bit object"),
    "32 bits": (changed(lambda c: 4, "B", 1), "no 64-bit object"),
    "program": (changed(lambda c: 16, "H", 2), "no 64-bit object"),
    "machine": (changed(lambda c: 18, "H", 243), "code for machine 243"),
    "headers behind the end": (changed(lambda c: 40, "Q", 1 << 40), "bytes at 1099511627776"),
    "no sections": (changed(lambda c: 60, "H", 0), "0 sections"),
    "many sections": (changed(lambda c: 60, "H", 0xFFFF), "65535 sections"),
    "variables": (changed(behind(CODE, 8), "Q", 7), "code and constants alone"),
    "of threads": (changed(behind(CONSTANT, 8), "Q", 0x402), "code and constants alone"),
    "no bits": (changed(behind(CODE, 4), "I", 8), "code and constants alone"),
    "code behind the end": (changed(behind(CODE, 24), "Q", 1 << 62), "the file has"),
    "long code": (changed(behind(CODE, 32), "Q", 1 << 62), "the file has"),
    "alignment": (changed(behind(CODE, 48), "Q", 3), "aligned to 3"),
    "wide alignment": (changed(behind(CODE, 48), "Q", 1 << 40), "aligned to"),
    "no symbols": (changed(behind(header_of(SYMTAB), 4), "I", 7), "0 tables of symbols"),
    "cut symbols": (changed(behind(header_of(SYMTAB), 32), "Q", 25), "in entries of 24"),
    "foreign names": (changed(behind(header_of(SYMTAB), 40), "I", 0), "belongs to 0"),
    "names of nothing": (changed(behind(header_of(SYMTAB), 40), "I", 999), "belongs to 999"),
    "short names": (changed(behind(header_of(STRTAB), 32), "Q", 1), "a name at"),
    "relocation": (changed(first_of(RELA, 8), "I", 9999), "relocation of kind 9999"),
    "relocated symbol": (changed(first_of(RELA, 12), "I", 9999), "to symbol 9999"),
    "symbol 0": (changed(first_of(RELA, 12), "I", 0), "to symbol 0"),
    "relocated place": (changed(first_of(RELA, 0), "Q", 1 << 63), "behind its section"),
    "no addends": (changed(behind(header_of(RELA), 4), "I", 9), "without addends"),
    "other function": (sample_object(HOST).replace(b"memcpy", b"system"), "it needs 'system'"),
    "other name": (sample_object(HOST).replace(b"sample\0", b"simple\0"), "no function 'sample'"),
    "empty": (b"", "0 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    """What is no object of kernels, or reaches out of itself, is refused with what is wrong."""
    content, message = BAD[name]
    assert content != sample_object(HOST)
    with pytest.raises(KernelError, match=message):
        ElfObject.parse(content, NAME)


@settings(max_examples=100)
@given(data=st.data())
def test_damage_never_escapes(data: st.DataObject) -> None:
    """Whatever bytes are changed or cut off, an object is read and placed, or a KernelError."""
    content = bytearray(sample_object(data.draw(st.sampled_from([X86_LINUX, ARM_LINUX]))))
    machine = {62: X86_64, 183: AARCH64}[struct.unpack_from("<H", content, 18)[0]]
    at, _ = section_table(bytes(content))
    places = st.one_of(st.integers(0, 63), st.integers(at, len(content) - 1),
                       st.integers(0, len(content) - 1))  # fmt: skip
    for place in data.draw(st.lists(places, max_size=6)):
        content[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    del content[data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content)))) :]
    try:
        layout = Layout.of([ElfObject.parse(bytes(content), NAME, machine)])
        image = layout.image(BASE, lambda name: FAR_FUNCTION)
        assert len(image) == layout.num_bytes < 1 << 20
    except KernelError:
        pass


@given(st.binary(max_size=200))
def test_other_bytes(content: bytes) -> None:
    """Bytes of any other kind are refused."""
    with pytest.raises(KernelError):
        ElfObject.parse(content, NAME)


def test_functions_of_the_system() -> None:
    """What code may call is found; what the system lacks is named."""
    assert system_function("memcpy") == ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value
    with pytest.raises(KernelError, match="no_such_function"):
        system_function("no_such_function")


# Kernels


class LLVMRunner(KernelRunner):
    """Runs the same stored objects, loaded by LLVM."""

    def preload(self, names: object) -> None:
        """Load from the cache what ``runner_of`` has put there."""
        for name in names if isinstance(names, list) else ():
            if name in self._loaded:
                continue
            runner_of(self.tier).preload([name])
            content = read_checked(cache_folder(self.tier) / f"{name}.o")
            assert content
            target = binding.Target.from_default_triple()
            machine = target.create_target_machine(jit=True, reloc="pic", codemodel="small")
            engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
            engine.add_object_file(binding.ObjectFileRef.from_data(content))
            engine.finalize_object()
            self._held.append(engine)
            self._loaded[name] = ENTRY(engine.get_function_address(name))


@pytest.mark.skipif(sys.platform != "linux", reason="LLVM loads ELF on Linux alone")
@pytest.mark.parametrize("tier", TIERS, ids=tier_name)
def test_same_bits_as_loaded_by_llvm(tier: Tier) -> None:
    """Kernels with many constants give the bits that they give when LLVM has loaded them."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    random = np.random.default_rng(1)
    x = random.normal(size=(7, 256)).astype(np.float32)
    weights = random.integers(0, 255, (24, 144), np.uint8)
    weights[:, 1:4:2] = 0x1C  # Scales of super-blocks that are no NaN.
    results = [
        (runner.gemv("Q4_K", weights, x[:1]), runner.gemm("Q4_K", weights, x),
         runner.swiglu(x, x[::-1].copy())[0])
        for runner in (runner_of(tier), LLVMRunner(tier))
    ]  # fmt: skip
    for ours, theirs in zip(*results, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_array_equal(ours, theirs)
