"""The instructions that kernels are made of, per tier: read from the compiler's assembly."""

from __future__ import annotations

import functools
import json
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from harness.caches import CACHE_KERNELS, OTHER_KERNELS
from harness.kernels import TIERS, runner_of, tier_name
from llvmlite import binding

from edgellama.kernels_cpu.compiling.code_cache import cache_folder
from edgellama.kernels_cpu.compiling.compile_worker import read_checked
from edgellama.kernels_cpu.layouts import GEMM_TOKENS, PANEL_VECTORS
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import ONE_THREAD_SIGNATURES

PROGRAM = """
import json, sys; sys.path[:] = json.loads(sys.argv[1])
from llvmlite import binding
from edgellama.kernels_cpu.machine import cpu

class Printing:
    '''The target machine, giving assembly where objects are asked for.'''
    def __init__(self, machine):
        self.machine = machine
        self._as_parameter_ = machine
    def __getattr__(self, name):
        return getattr(self.machine, name)
    def emit_object(self, module):
        return self.machine.emit_assembly(module).encode()

triple = sys.argv[3]
if triple != binding.get_process_triple():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    binding.get_process_triple = lambda: triple
from edgellama.kernels_cpu.compiling import jit
from edgellama.kernels_cpu.signatures import kernels_by_name

original = jit.target_machine
jit.target_machine = lambda: Printing(original())
optimize = jit.optimize
jit.optimize = lambda module, machine: optimize(module, machine.machine)
jit.use_tier(next(tier for tier in cpu.TIERS if tier.name == sys.argv[2]))
kernels = {name: kernels_by_name()[name] for name in sys.argv[4:]}
print(json.dumps({name: jit.compile_kernel(kernel).decode() for name, kernel in kernels.items()}))
"""
KERNELS = {
    "amx": ("gemm_Q4_K",),
    "avx512vnni": ("gemv_Q4_0", "gemv_Q4_K", "gemm_Q8_0", "gemm_F16"),
    "avxvnni": ("gemv_Q4_0", "gemm_F16"),
    "avx2": ("gemv_Q4_K", "gemm_Q8_0", "gemm_F16"),
    "sse4": ("gemv_Q4_K", "gemm_Q8_0", "gemm_F16"),
    "neon": ("gemm_Q8_0", "gemv_IQ4_NL"),
    "armv8": ("gemm_Q8_0", "gemv_IQ4_NL"),
    "generic": ("gemv_Q4_0", "gemm_F16"),
}
MORE_KERNELS = {
    "avx512vnni": ("gemv_Q3_K", "gemv_Q6_K", "gemv_IQ4_XS", "gemm_Q6_K"),
    "neon": ("gemv_Q3_K",),
    "generic": ("gemv_Q3_K",),
}
"""Looked at with the slow tests."""
PACKED_ATTENTION = "attention_packed_f16_f16"
PAIR_PRODUCTS = {"avx512vnni": r"\bvpdpwssd\s[^\n]*%zmm", "avx2": r"\bvpmaddwd\s[^\n]*%ymm"}
"""How tiers multiply pairs of 16-bit integers."""
ARM_TRIPLES = ("aarch64-unknown-linux-gnu", "arm64-apple-darwin")
BEYOND_AVX2 = r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]"
pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="instructions of x86-64"
)


OTHER_TIERS = frozenset({"avx2", "avxvnni", "sse4", "generic"})
"""Looked at with the slow tests: each takes a compilation that no cache keeps."""


def samples(names: Iterable[str]) -> list[Any]:
    """Tiers or Arm's targets as parameters, those that the default run leaves out marked slow."""
    slow = OTHER_TIERS | set(ARM_TRIPLES)
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in names]


def kernels(tier: str, family: str = "") -> list[Any]:
    """A tier's kernels as parameters, those that the default run leaves out marked slow."""
    more = MORE_KERNELS.get(tier, ())
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (tier in OTHER_TIERS or name in more))
        for name in (*KERNELS[tier], *more)
        if name.startswith(family)
    ]


def everything_of_x86() -> list[Any]:
    """Tiers of x86-64 with each kernel that is compiled for them, as parameters."""
    return [
        pytest.param(tier, name, marks=[pytest.mark.slow] * (tier in OTHER_TIERS or name in more))
        for tier, names in KERNELS.items()
        if tier not in ("neon", "armv8")
        for more in [MORE_KERNELS.get(tier, ())]
        for name in (*names, *more, *[PACKED_ATTENTION] * (tier in PAIR_PRODUCTS))
    ]


@functools.cache
def compiling(tier: str, triple: str | None = None, is_more: bool = False) -> subprocess.Popen[str]:
    """A process that compiles the tier's sample of kernels, or more of them, to assembly."""
    triple = triple or binding.get_process_triple()
    names = MORE_KERNELS[tier] if is_more else KERNELS[tier]
    command = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), tier, triple, *names]
    command += [PACKED_ATTENTION] * (tier in PAIR_PRODUCTS and not is_more)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@functools.cache
def assembly(tier: str, triple: str | None = None, is_more: bool = False) -> dict[str, str]:
    """Assembly of the tier's sample of kernels, compiled exactly as for the cache."""
    process = compiling(tier, triple, is_more)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    texts: dict[str, str] = json.loads(output)
    return texts


def text_of(tier: str, name: str) -> str:
    """Assembly of one kernel of this machine."""
    return assembly(tier, is_more=name in MORE_KERNELS.get(tier, ()))[name]


@pytest.mark.parametrize("name", [*kernels("avx512vnni", "gemv"), *kernels("avx512vnni", "gemm_Q")])
def test_dot_products_of_full_width(name: str) -> None:
    """Quantized kernels of avx512vnni multiply bytes with vpdpbusd on whole registers."""
    assert re.search(r"\bvpdpbusd\s[^\n]*%zmm", text_of("avx512vnni", name))


def test_products_in_tile_registers() -> None:
    """Long steps of amx multiply bytes in tile registers, which they shape first and free last."""
    text = text_of("amx", "gemm_Q4_K")
    places = [text.index(f"\t{name}") for name in ("ldtilecfg", "tdpbssd", "tilerelease")]
    assert places == sorted(places)
    assert not re.search(r"\bvpdpbusd\s[^\n]*%zmm", text)


def test_sums_of_tile_registers_are_scaled_in_registers() -> None:
    """What the sums of tile registers are added to is spilled nowhere in the loop over groups."""
    blocks = re.split(r"\n(?=\.L\w+:)", text_of("amx", "gemm_Q4_K"))
    hot = [block for block in blocks if "\ttdpbssd" in block and "\tvfmadd" in block]
    assert len(hot) == 1
    assert not re.search(r"\bvmov\w+\s+%zmm\d+, -?\w*\(%r[bs]p\)", hot[0])


def test_fused_multiply_of_full_width() -> None:
    """Float kernels of avx512vnni use fused multiply-add and convert halves in hardware."""
    text = assembly("avx512vnni")["gemm_F16"]
    assert re.search(r"\bvfmadd\w+\s[^\n]*%zmm", text)
    assert re.search(r"\bvcvtph2ps\s", text)


@pytest.mark.parametrize("name", kernels("avx512vnni"))
def test_accumulators_stay_in_registers(name: str) -> None:
    """No vector register is spilled within a loop that multiplies."""
    blocks = re.split(r"\n(?=\.L\w+:)", text_of("avx512vnni", name))
    spill = re.compile(r"\bvmov\w+\s+%zmm\d+, -?\w*\(%r[bs]p\)")
    multiplies = re.compile(r"\b(vpdpbusd|vfmadd\w+)\s[^\n]*%zmm")
    hot = [block for block in blocks if len(multiplies.findall(block)) >= 2]
    assert hot
    assert not [block for block in hot if spill.search(block)]


@pytest.mark.parametrize("name", kernels("avx512vnni", "gemm_Q"))
def test_words_of_a_group_are_written_out(name: str) -> None:
    """Long steps multiply all words of a group with a tile between two jumps."""
    blocks = re.split(r"\n(?=\.L\w+:)", text_of("avx512vnni", name))
    words = 4 if name == "gemm_Q6_K" else 8
    products = [len(re.findall(r"\bvpdpbusd\s[^\n]*%zmm", block)) for block in blocks]
    assert PANEL_VECTORS * GEMM_TOKENS * words in products


@pytest.mark.parametrize(("tier", "name"), everything_of_x86())
def test_spilled_vectors_lie_in_one_line(tier: str, name: str) -> None:
    """Every kernel aligns its stack, so that what does not fit the registers crosses no line."""
    assert re.search(r"\bandq\s+\$-64, %rsp", text_of(tier, name))


@pytest.mark.parametrize("name", kernels("avx512vnni", "gemv"))
def test_weights_are_asked_for(name: str) -> None:
    """Every loop of a decode kernel that multiplies asks for both levels of the cache."""
    blocks = re.split(r"\n(?=\.L\w+:)", text_of("avx512vnni", name))
    hot = [block for block in blocks if len(re.findall(r"\bvpdpbusd\s[^\n]*%zmm", block)) >= 2]
    assert hot
    for level in ("prefetcht0", "prefetcht1"):
        assert all(level in block for block in hot)


@pytest.mark.parametrize("tier", samples(PAIR_PRODUCTS))
def test_products_of_packed_attention(tier: str) -> None:
    """Scores and sums of packed attention are twelve products of pairs a step, none spilled."""
    blocks = re.split(r"\n(?=\.L\w+:)", assembly(tier)[PACKED_ATTENTION])
    hot = [block for block in blocks if re.search(PAIR_PRODUCTS[tier], block)]
    assert [len(re.findall(PAIR_PRODUCTS[tier], block)) for block in hot] == [12, 12]
    loops = [re.split(r"\n\s+j\w+\s", block)[0] for block in hot]
    assert not [loop for loop in loops if re.search(r"%[yz]mm\d+, -?\w*\(%r[bs]p\)", loop)]


@pytest.mark.parametrize("name", kernels("generic"))
def test_generic_needs_nothing_special(name: str) -> None:
    """The generic tier uses nothing that an old x86-64 lacks."""
    text = text_of("generic", name)
    assert not re.search(r"%[yz]mm|\bv[a-z]+\w*\s", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS["avxvnni"])
def test_vnni_of_laptops(name: str) -> None:
    """Kernels of avxvnni use its form of vpdpbusd and nothing that AVX-512 brought."""
    text = assembly("avxvnni")[name]
    assert not re.search(BEYOND_AVX2, text)
    expected = r"\bvfmadd\w+\s[^\n]*%ymm" if "F16" in name else r"\{vex\}\s+vpdpbusd\s[^\n]*%ymm"
    assert re.search(expected, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS["avx2"])
def test_pairs_of_avx2(name: str) -> None:
    """Kernels of avx2 multiply bytes in pairs, and wide ones with their signs moved."""
    text = assembly("avx2")[name]
    assert not re.search(BEYOND_AVX2 + "|vpdpbusd", text)
    expected = "vfmadd" if "F16" in name else "vpmaddubsw"
    assert re.search(rf"\b{expected}\w*\s[^\n]*%ymm", text)
    assert ("vpsignb" in text) == (name == "gemm_Q8_0")


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS["sse4"])
def test_pairs_of_sse4(name: str) -> None:
    """Kernels of sse4 multiply bytes as those of avx2 do, in registers of half the width."""
    text = assembly("sse4")[name]
    assert not re.search(r"%[yz]mm|\bv[a-z]+\w*\s", text)
    assert re.search(r"\bmulps\s" if "F16" in name else r"\bpmaddubsw\s", text)
    assert ("psignb" in text) == (name == "gemm_Q8_0")


@pytest.mark.parametrize("is_more", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("triple", samples(ARM_TRIPLES))
def test_dot_products_of_arm(triple: str, is_more: bool) -> None:
    """Kernels compiled for Arm multiply signed bytes with sdot and look up tables with tbl."""
    for name, text in assembly("neon", triple, is_more).items():
        assert re.search(r"\bsdot", text)
        assert not name.startswith("gemv") or re.search(r"\btbl", text)


@pytest.mark.slow
def test_pairs_of_armv8() -> None:
    """Kernels for any 64-bit Arm add up products in pairs, and use nothing that some lack."""
    for name, text in assembly("armv8", ARM_TRIPLES[0]).items():
        assert re.search(r"\bsmull2?\s+v", text) and re.search(r"\bsadalp\s+v", text)
        assert not re.search(r"\b[su]dot\b|\b[su]mmla\b|\bcas\w*\b|\bldadd\w*\b", text)
        assert not name.startswith("gemv") or re.search(r"\btbl", text)


def undefined_symbols(content: bytes) -> set[str]:
    """Names that an ELF object for a 64-bit little-endian machine wants from outside."""
    section_at, section_bytes, num_sections = struct.unpack_from("<Q10xHH", content, 40)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", content, section_at + i * section_bytes)
        for i in range(num_sections)
    ]
    names: set[str] = set()
    for _, kind, _, _, offset, num_bytes, link, *_ in sections:
        if kind != 2:
            continue
        strings = sections[link][4]
        for at in range(offset, offset + num_bytes, 24):
            name, section = struct.unpack_from("<I2xH", content, at)
            text = content[strings + name : content.index(b"\0", strings + name)].decode()
            if section == 0 and text:
                names.add(text)
    return names


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF objects")
@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS, ids=tier_name)
def test_nothing_from_outside(tier: Tier) -> None:
    """The objects of all kernels need no symbol but the three that copy and clear memory."""
    names = [*OTHER_KERNELS, *CACHE_KERNELS, *(kernel.name for kernel in ONE_THREAD_SIGNATURES)]
    runner_of(tier).preload(names)
    for name in names:
        content = read_checked(cache_folder(tier) / f"{name}.o")
        assert content
        assert undefined_symbols(content) <= {"memcpy", "memset", "memmove"}, name
