"""The machine that runs PTX, by tiny texts whose results the ISA's own words tell."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ptx_machine import GlobalMemory, PtxFault, PtxMachine
from ptx_machine.numbers import fused_multiply_add

TEXT = """
.version 7.0
.target {target}
.address_size 64
.extern .shared .align 16 .b8 room[];
.visible .entry tiny(
	.param .u64 from,
	.param .u64 to,
	.param .f32 factor
)
.maxntid 128
{{
	.reg .pred %p<4>;
	.reg .b16 %h<8>;
	.reg .b32 %r<40>;
	.reg .b64 %d<12>;
	mov.u32 %r0, %tid.x;
	mul.wide.u32 %d0, %r0, 4;
	ld.param.b64 %d1, [from];
	add.s64 %d1, %d1, %d0;
	ld.param.b64 %d2, [to];
	add.s64 %d2, %d2, %d0;
	ld.global.b32 %r1, [%d1];
	mov.b64 %d3, room;
	add.s64 %d4, %d3, %d0;
	cvt.u32.u64 %r39, %d4;
	{body}
	st.global.b32 [%d2], %r2;
	ret;
}}
"""
"""Each thread has its own word in %r1 and leaves one in %r2; %d4 is its word of shared memory."""


def run(
    body: str, words: Any = 0, *, threads: int = 32, shared_bytes: int = 0, target: str = "sm_80",
    blocks: int = 1, seed: int | None = None, fuses: bool = False, memory: Sequence[Any] = (),
) -> np.ndarray[Any, Any]:  # fmt: skip
    """The words that threads leave."""
    given = np.ascontiguousarray(np.broadcast_to(np.asarray(words), threads)).view("u4")
    found = np.zeros(threads, "u4")
    machine = PtxMachine(TEXT.format(body=body, target=target), fuses=fuses)
    slots = [struct.pack("<q", part.ctypes.data) for part in (given, found)]
    machine.launch(
        "tiny", (blocks, 1, 1), threads, [*slots, struct.pack("<f", 2.5)],
        GlobalMemory.of_arrays(given, found, *memory), shared_bytes, seed,
    )  # fmt: skip
    return found


def f32(*values: float) -> np.ndarray[Any, Any]:
    """Numbers as the machine takes them."""
    return np.array(values, "f4")


NAN = float("nan")
COMPUTED = [
    # A shift by the width or more leaves nothing: its distance is not taken modulo.
    ("shl.b32 %r2, %r1, 31;", 3, 0x80000000),
    ("shl.b32 %r2, %r1, 32;", 3, 0),
    ("shr.u32 %r2, %r1, 33;", 0xFFFFFFFF, 0),
    ("cvt.s64.s32 %d5, %r1; shr.s64 %d5, %d5, 99; cvt.u32.u64 %r2, %d5;", 0x80000000, 0xFFFFFFFF),
    ("cvt.u64.u32 %d5, %r1; shr.s64 %d5, %d5, 4; cvt.u32.u64 %r2, %d5;", 0x80000000, 0x08000000),
    # prmt: bytes 0 to 3 of the first operand, 4 to 7 of the second; 8 repeats a sign.
    ("prmt.b32 %r2, %r1, 0x11223344, 0x7150U;", 0xAABBCCDD, 0x11CC33DD),
    ("prmt.b32 %r2, %r1, 0, 0x9B10U;", 0x7FBB0CDD, 0x00000CDD),
    ("prmt.b32 %r2, %r1, 0, 0x8A88U;", 0x7FBB0CDD, 0xFFFFFFFF),
    ("bfe.u32 %r2, %r1, 4, 8;", 0x12345678, 0x67),
    ("bfe.u32 %r2, %r1, 28, 8;", 0xF2345678, 0xF),
    ("mul.hi.u32 %r2, %r1, 0x40000000U;", 7, 1),
    ("mul.lo.s32 %r2, %r1, -3;", 5, 0xFFFFFFF1),
    ("mad.lo.s32 %r2, %r1, %r1, -1;", 0x10000, 0xFFFFFFFF),
    ("cvt.u16.u32 %h1, %r1; mul.wide.u16 %r2, %h1, %h1;", 0x1FFFF, 0xFFFE0001),
    ("cvt.u16.u32 %h1, %r1; mul.hi.u16 %h2, %h1, %h1; cvt.u32.u16 %r2, %h2;", 0xFFFF, 0xFFFE),
    ("cvt.u16.u32 %h1, %r1; sub.s16 %h2, 0, %h1; cvt.u32.u16 %r2, %h2;", 1, 0xFFFF),
    # Quotients go toward zero, and what they leave has the dividend's sign.
    ("cvt.s64.s32 %d5, %r1; div.s64 %d5, %d5, 4; cvt.u32.u64 %r2, %d5;", -7, 0xFFFFFFFF),
    ("cvt.s64.s32 %d5, %r1; rem.s64 %d5, %d5, 4; cvt.u32.u64 %r2, %d5;", -7, 0xFFFFFFFD),
    ("div.u32 %r2, %r1, 4;", -8, 0x3FFFFFFE),
    ("max.s32 %r2, %r1, 5;", -1, 5),
    ("setp.lt.s32 %p1, %r1, 0; selp.b32 %r2, 11, 22, %p1;", -1, 11),
    ("setp.lt.u32 %p1, %r1, 1; selp.b32 %r2, 11, 22, %p1;", -1, 22),
    ("setp.gt.s32 %p1, %r1, -5; not.pred %p2, %p1; selp.b32 %r2, 11, 22, %p2;", -4, 22),
    # The first operand of a pair becomes the upper half; words are taken apart low half first.
    ("cvt.rn.f16x2.f32 %r2, 0f3F800000, 0f40000000;", 0, 0x3C004000),
    ("cvt.rn.bf16x2.f32 %r2, 0f3F800000, 0f40000000;", 0, 0x3F804000),
    ("mov.b32 {%h1, %h2}, %r1; cvt.u32.u16 %r2, %h1;", 0xAAAABBBB, 0xBBBB),
    ("mov.b32 {%h1, %h2}, %r1; mov.b32 %r2, {%h2, %h1};", 0xAAAABBBB, 0xBBBBAAAA),
    ("{ .reg .b16 h; mov.b32 {h, %h2}, %r1; } cvt.u32.u16 %r2, %h2;", 0xAAAABBBB, 0xAAAA),
    ("cvt.u16.u32 %h1, %r1; cvt.f32.f16 %r2, %h1;", 0x3555, np.float32(np.float16(1 / 3))),
    ("cvt.u16.u32 %h1, %r1; cvt.f32.f16 %r2, %h1;", 0x0001, np.float32(2.0**-24)),
    ("add.f16x2 %r2, %r1, %r1;", 0x3C004000, 0x40004400),
    ("mul.f16x2 %r2, %r1, 0x40003800;", 0x3C004200, 0x40003E00),
    ("ld.param.b32 %r3, [factor]; mul.f32 %r2, %r1, %r3;", np.float32(2), np.float32(5)),
]
"""What is done, with what word, and what comes out."""
ROUNDED = [
    # Ties go to even.
    ("cvt.rn.f16.f32 %h1, %r1; cvt.u32.u16 %r2, %h1;", 1 + 2**-11, 0x3C00),
    ("cvt.rn.f16.f32 %h1, %r1; cvt.u32.u16 %r2, %h1;", 1 + 3 * 2**-11, 0x3C02),
    ("cvt.rn.f16.f32 %h1, %r1; cvt.u32.u16 %r2, %h1;", 65520.0, 0x7C00),
    ("cvt.rn.f16.f32 %h1, %r1; cvt.u32.u16 %r2, %h1;", NAN, 0x7FFF),
    ("cvt.rn.bf16x2.f32 %r2, %r1, %r1;", 1 + 2**-8, 0x3F803F80),
    ("cvt.rn.bf16x2.f32 %r2, %r1, %r1;", 1 + 3 * 2**-8, 0x3F823F82),
    ("cvt.rn.bf16x2.f32 %r2, %r1, %r1;", NAN, 0x7FFF7FFF),
    ("cvt.rzi.s32.f32 %r2, %r1;", -2.9, 0xFFFFFFFE),
    ("cvt.rzi.s32.f32 %r2, %r1;", 3e9, 0x7FFFFFFF),
    ("cvt.rzi.s32.f32 %r2, %r1;", NAN, 0),
    ("max.f32 %r2, %r1, 0f40000000;", NAN, np.float32(2)),
    ("max.f32 %r2, %r1, 0f80000000;", 0.0, 0),
    ("max.f32 %r2, 0f80000000, %r1;", 0.0, 0),
    ("min.f32 %r2, %r1, 0f40000000;", NAN, np.float32(2)),
    ("min.f32 %r2, %r1, 0f80000000;", 0.0, 0x80000000),
    ("min.f32 %r2, 0f477FE000, %r1;", 7e4, np.float32(65504)),
    ("neg.f32 %r2, %r1;", 0.0, 0x80000000),
    ("abs.f32 %r2, %r1;", -3.0, np.float32(3)),
    ("setp.eq.f32 %p1, %r1, %r1; selp.b32 %r2, 11, 22, %p1;", NAN, 22),
    ("setp.lt.f32 %p1, %r1, 0f00000000; selp.b32 %r2, 11, 22, %p1;", NAN, 22),
    ("ex2.approx.ftz.f32 %r2, %r1;", 0.0, np.float32(1)),
    ("ex2.approx.ftz.f32 %r2, %r1;", -126.5, 0),
    ("ex2.approx.ftz.f32 %r2, %r1;", float("-inf"), 0),
    ("rcp.rn.f32 %r2, %r1;", 3.0, np.float32(1 / 3)),
    ("div.rn.f32 %r2, %r1, 0f42FE0000;", 1.0, np.float32(1 / 127)),
    # One rounding: the product's last bit, 2**-24, is all that is left.
    ("fma.rn.f32 %r2, %r1, %r1, 0fBF801000;", 1 + 2**-12, np.float32(2**-24)),
    # The f64 sum would be rounded twice: 1 + 2**-24 + 2**-80 is more than a tie.
    ("fma.rn.f32 %r2, %r1, %r1, 0f33800000;", 1 + 2**-23, np.float32(1 + 3 * 2**-23)),
    ("add.rn.f32 %r2, %r1, 0f33800000;", 1.0, np.float32(1)),
]  # fmt: skip
"""The same with a number."""


@pytest.mark.parametrize(("body", "given", "expected"), COMPUTED)
def test_words(body: str, given: Any, expected: Any) -> None:
    """Instructions compute integers, bytes and pairs as NVIDIA describes them."""
    words = given if isinstance(given, np.float32) else np.array(given % 2**32, "u4")
    found = run(body, words)
    assert set(found.tolist()) == {int(np.array(expected).astype(_kind(expected)).view("u4"))}


@pytest.mark.parametrize(("body", "given", "expected"), ROUNDED)
def test_numbers(body: str, given: float, expected: Any) -> None:
    """Floats: how they are rounded, and what is no number."""
    found = run(body, np.float32(given))
    assert set(found.tolist()) == {int(np.array(expected).astype(_kind(expected)).view("u4"))}


def _kind(number: Any) -> str:
    return "f4" if isinstance(number, np.float32) else "u4"


def test_a_fused_sum_is_rounded_once() -> None:
    """Any sum is that of exact arithmetic, also near ties, of subnormal and of infinite results."""
    rng = np.random.default_rng(1)
    sizes = np.exp2(rng.integers(-70, 60, (3, 4096)))
    x, y, z = (rng.integers(-(2**24), 2**24, (3, 4096)) * sizes).astype("f4")
    products = (x.astype("f8") * y).clip(-3e38, 3e38).astype("f4")
    z[:2048] = -products[:2048] * rng.choice([1, 0.5, 2**-24, 2.0**-50], 2048).astype("f4")
    with np.errstate(all="ignore"):
        found = fused_multiply_add(x, y, z)
    for number, *factors in zip(found.tolist(), x.tolist(), y.tolist(), z.tolist(), strict=True):
        if np.isfinite([number, *factors]).all():
            a, b, c = map(Fraction, factors)
            near = [
                np.nextafter(np.float32(number), np.float32(side)) for side in (-np.inf, np.inf)
            ]
            exact = a * b + c
            away = [abs(exact - Fraction(float(other))) for other in near if np.isfinite(other)]
            assert abs(exact - Fraction(number)) <= min(away)


def test_what_a_card_may_fuse() -> None:
    """A product and a sum without ".rn" may be rounded once; with it they are rounded twice."""
    loose = "mul.f32 %r3, %r1, %r1; sub.f32 %r2, %r3, 0f3F801000;"
    turned = "mul.f32 %r3, %r1, %r1; sub.f32 %r2, 0f3F801000, %r3;"
    exact = "mul.rn.f32 %r3, %r1, %r1; sub.rn.f32 %r2, %r3, 0f3F801000;"
    x = np.float32(1 + 2**-12)
    assert run(loose, x).view("f4")[0] == run(exact, x, fuses=True).view("f4")[0] == 0
    assert run(loose, x, fuses=True).view("f4")[0] == np.float32(2**-24)
    assert run(turned, x, fuses=True).view("f4")[0] == np.float32(-(2**-24))


# Lanes.

LANES = np.arange(32, dtype="u4")


@pytest.mark.parametrize(
    ("mode", "operands", "source"),
    [
        ("bfly", "%r1, 16, 31, -1", LANES ^ 16),
        ("bfly", "%r1, 5, 31, -1", LANES ^ 5),
        ("bfly", "%r1, 16, 15, -1", np.where(LANES < 16, LANES, LANES ^ 16)),
        ("idx", "%r1, 7, 31, -1", np.full(32, 7)),
        ("idx", "%r1, 39, 31, -1", np.full(32, 7)),
        ("idx", "%r1, 9, 6175, -1", LANES & 24 | 1),
        ("idx", "%r1, 9, 6148, -1", LANES & 24 | 1),
        ("idx", "%r1, 6, 6148, -1", LANES),
    ],
)
def test_shuffles(mode: str, operands: str, source: Any) -> None:
    """A lane gets the number of another, or keeps its own where that is out of its segment."""
    assert np.array_equal(run(f"shfl.sync.{mode}.b32 %r2, {operands};", LANES), source)


def test_lanes_part_and_meet() -> None:
    """Loops of different lengths and both sides of a branch come together for a shuffle."""
    body = """
	mov.b32 %r3, 0;
	and.b32 %r4, %r1, 3;
$loop:
	add.s32 %r3, %r3, 10;
	add.s32 %r4, %r4, -1;
	setp.ge.s32 %p1, %r4, 0;
	@%p1 bra $loop;
	setp.lt.u32 %p2, %r1, 16;
	@!%p2 bra $other;
	add.s32 %r3, %r3, 1;
	bra.uni $met;
$other:
	add.s32 %r3, %r3, 2;
$met:
	shfl.sync.bfly.b32 %r2, %r3, 16, 31, -1;"""
    expected = 10 * ((LANES & 3) + 1) + np.where(LANES < 16, 2, 1)
    assert np.array_equal(run(body, LANES), expected)


def words_of(halves: Any) -> np.ndarray[Any, Any]:
    """Two numbers of 16 bits a word, the first one low."""
    return np.ascontiguousarray(halves).view("u4").ravel()


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_matrices_from_shared_memory(trans: str) -> None:
    """Lane 8 m + r tells where row r of matrix m is; lane l gets row l / 4, columns 2 (l % 4)."""
    content = np.arange(4 * 64, dtype="u2").reshape(4, 8, 8)
    body = (
        "".join(
            f"""ld.global.b32 %r3, [%d1+{128 * i}]; st.shared.b32 [%d4+{128 * i}], %r3;"""
            for i in range(4)
        )
        + """
	bar.warp.sync -1;
	mad.lo.s32 %r5, %r0, 16, 0;
	cvt.u32.u64 %r6, %d3;
	add.s32 %r5, %r5, %r6;
	ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r5+0];
	mov.b32 %r2, %r1{matrix};"""
    )
    given = words_of(content)
    for matrix in range(4):
        text = body.format(trans=trans, matrix=matrix)
        found = launch_with(text, given, 512)
        rows = content[matrix].T if trans else content[matrix]
        expected = [rows[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2] for lane in range(32)]
        assert np.array_equal(found, words_of(np.array(expected)))


def launch_with(body: str, given: Any, shared_bytes: int = 0, target: str = "sm_80") -> Any:
    """As ``run``, with more words before those of the threads."""
    found = np.zeros(32, "u4")
    machine = PtxMachine(TEXT.format(body=body, target=target))
    slots = [struct.pack("<q", part.ctypes.data) for part in (given, found)]
    memory = GlobalMemory.of_arrays(given, found)
    machine.launch("tiny", (1, 1, 1), 32, [*slots, bytes(4)], memory, shared_bytes)
    return found


@pytest.mark.parametrize(
    ("depth", "kind", "target"), [(16, "f16", "sm_80"), (16, "bf16", "sm_80"), (8, "f16", "sm_75")]
)
def test_products_of_matrices(depth: int, kind: str, target: str) -> None:
    """A x B + C, each lane with the elements that the ISA's figures show."""
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-8, 8, shape).astype("f4") for shape in ((16, depth), (depth, 8)))
    c = rng.integers(-99, 99, (16, 8)).astype("f4")

    def half(number: float) -> int:
        if kind == "f16":
            return int(np.float16(number).view("u2"))
        return int(np.float32(number).view("u4")) >> 16

    registers: list[list[int]] = []
    for lane in range(32):
        g, t = lane // 4, lane % 4
        pairs = [(a, (g, 2 * t), (g, 2 * t + 1)), (a, (g + 8, 2 * t), (g + 8, 2 * t + 1))]
        if depth == 16:
            pairs += [
                (a, (g, 2 * t + 8), (g, 2 * t + 9)),
                (a, (g + 8, 2 * t + 8), (g + 8, 2 * t + 9)),
            ]
        pairs.append((b, (2 * t, g), (2 * t + 1, g)))
        if depth == 16:
            pairs.append((b, (2 * t + 8, g), (2 * t + 9, g)))
        words = [half(m[first]) | half(m[second]) << 16 for m, first, second in pairs]
        sums = [c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1]]
        registers.append([*words, *(int(number.view("u4")) for number in sums)])
    given = np.array(registers, "u4").T.copy()
    count, left = len(given), depth // 4
    loads = "".join(f"ld.global.b32 %r{10 + i}, [%d1+{128 * i}];\n" for i in range(count))
    operands = [range(10, 10 + left), range(10 + left, 10 + left + depth // 8),
                range(10 + count - 4, 10 + count)]  # fmt: skip
    vectors = ", ".join("{" + ", ".join(f"%r{n}" for n in part) + "}" for part in operands)
    expected = a @ b + c
    for i, (row, column) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
        body = (
            f"{loads} mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 "
            f"{{%r30, %r31, %r32, %r33}}, {vectors}; mov.b32 %r2, %r3{i};"
        )
        found = launch_with(body, given, target=target).view("f4")
        assert found.tolist() == [
            expected[lane // 4 + row, 2 * (lane % 4) + column] for lane in range(32)
        ]


# Memory of a block.

SHARE = "st.shared.b32 [%d4], %r1; {barrier} ld.shared.b32 %r2, [%d3+{at}];"


def test_barriers_order_what_threads_write() -> None:
    """All see what one wrote before a barrier: of the warp within a warp, of the block else."""
    words = np.arange(128, dtype="u4")
    for seed in (None, 1, 2):
        block = SHARE.format(barrier="bar.sync 0;", at=4 * 77)
        found = run(block, words, threads=128, shared_bytes=512, seed=seed)
        assert set(found.tolist()) == {77}
        warp = SHARE.format(barrier="bar.warp.sync -1;", at=4 * 7)
        assert set(run(warp, LANES, shared_bytes=128, seed=seed).tolist()) == {7}


def copying(before: str = "", after: str = "", size: str = "16") -> str:
    """Each of four lanes copies 16 bytes, then all read one word."""
    return f"""
	shl.b32 %r3, %r0, 2;
	add.s32 %r4, %r39, 0;
	mul.wide.u32 %d5, %r3, 4;
	add.s64 %d6, %d3, %d5;
	cvt.u32.u64 %r5, %d6;
	sub.s64 %d7, %d1, %d0;
	add.s64 %d7, %d7, %d5;
	mov.b32 %r6, {size};
	{before}
	setp.gt.u32 %p1, %r0, 3;
	@%p1 bra $copied;
	cp.async.cg.shared.global [%r5], [%d7], 16, %r6;
$copied:
	{after}
	ld.shared.b32 %r2, [%d3+20];"""


WAIT = "cp.async.wait_all; bar.warp.sync -1;"


def test_copies_arrive_when_waited_for() -> None:
    """Copied words are there after the wait and a barrier; without a source they are zeros."""
    words = np.arange(100, 132, dtype="u4")
    assert set(run(copying(after=WAIT), words, shared_bytes=64).tolist()) == {105}
    assert set(run(copying(after=WAIT, size="0"), words, shared_bytes=64).tolist()) == {0}


TICKET = """
	ld.param.b64 %d8, [from];
	ld.param.b64 %d9, [to];
	mov.u32 %r20, %ctaid.x;
	mul.wide.u32 %d10, %r20, 128;
	add.s64 %d10, %d10, %d9;
	add.s64 %d10, %d10, %d0;
	st.global.b32 [%d10+128], %r20;
	{release}
	mov.b32 %r21, 0;
	setp.ne.b32 %p1, %r0, 0;
	@%p1 bra $others;
	atom.global.add.u32 %r21, [%d8+128], 1;
$others:
	shfl.sync.idx.b32 %r22, %r21, 0, 31, -1;
	mov.b32 %r2, 0;
	setp.ne.b32 %p2, %r22, 2;
	@%p2 bra $end;
	{acquire}
	ld.global.b32 %r23, [%d2+128];
	ld.global.b32 %r24, [%d2+256];
	ld.global.b32 %r25, [%d2+384];
	add.s32 %r2, %r23, %r24;
	add.s32 %r2, %r2, %r25;
	bra.uni $last;
$end:
	ret;
$last:"""


def last_sum(release: str, acquire: str, seed: int | None) -> np.ndarray[Any, Any]:
    """The last of three blocks adds what all have left."""
    given, found = np.zeros(33, "u4"), np.zeros(128, "u4")
    body = TICKET.format(release=release, acquire=acquire)
    machine = PtxMachine(TEXT.format(body=body, target="sm_75"))
    slots = [struct.pack("<q", part.ctypes.data) for part in (given, found)]
    memory = GlobalMemory.of_arrays(given, found)
    machine.launch("tiny", (3, 1, 1), 32, [*slots, bytes(4)], memory, seed=seed)
    return found[:32]


FENCE, MEET = "membar.gl;", "bar.warp.sync -1;"


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_the_last_block_sees_what_all_wrote(seed: int | None) -> None:
    """Behind fences and a counter, in any order of blocks; without one of them it may not.

    One lane counts, so lanes must have met before the fence, and after the other.
    """
    assert set(last_sum(MEET + FENCE, FENCE + MEET, seed).tolist()) == {3}
    for fences in ((MEET, FENCE + MEET), (FENCE, FENCE + MEET), (MEET + FENCE, MEET),
                   (MEET + FENCE, FENCE)):  # fmt: skip
        with pytest.raises(PtxFault, match="what another warp wrote, without a fence"):
            last_sum(*fences, seed)


# What is refused.

FAULTS = [
    ("ld.global.b32 %r2, [%d1+4];", "thread 31: 4 bytes of global memory out of bounds"),
    ("ld.global.b32 %r2, [%d1+-4];", "thread 0: 4 bytes of global memory out of bounds"),
    ("ld.global.b64 %d5, [%d1]; mov.b32 %r2, 0;", "an address that is no multiple"),
    ("st.global.b32 [%d1+128], %r1;", "out of bounds"),
    ("ld.shared.b32 %r2, [%d4+4];", "thread 31: 4 bytes of shared memory out of bounds"),
    ("ld.shared.v2.b32 {%r2, %r3}, [%d4];", "an address that is no multiple"),
    ("ld.shared.b32 %r2, [%d4];", "st.global.b32.*uses what nobody wrote"),
    ("add.s32 %r2, %r1, %r7;", "uses what nobody wrote"),
    ("setp.eq.b32 %p1, %r7, 0; @%p1 bra $x; $x: mov.b32 %r2, 0;", "bra.*nobody wrote"),
    ("ld.global.b32 %r2, [%d7];", "uses what nobody wrote"),
    (SHARE.format(barrier="", at=4), "thread 0: reads what another thread wrote"),
    (SHARE.format(barrier="bar.warp.sync -1;", at=0) + "st.shared.b32 [%d4], %r0;",
     "thread 0: writes what another thread read"),
    ("st.shared.b32 [%d3], %r0; mov.b32 %r2, 0;", "two threads write different numbers"),
    ("sub.s32 %r3, 31, %r0; mul.wide.u32 %d5, %r3, 4; add.s64 %d5, %d5, %d3; "
     "st.shared.b32 [%d4], %r1; st.shared.b32 [%d5], %r1; mov.b32 %r2, 0;",
     "writes what another thread wrote"),
    (copying(after="bar.warp.sync -1;"), "reads where a copy is under way"),
    (copying(after="cp.async.wait_all;"), "reads what another thread wrote"),
    (copying(before="st.shared.b32 [%d4], %r1;"), "writes what another thread wrote"),
    (copying(after="st.shared.b32 [%d4], %r1;" + WAIT), "writes where a copy is under way"),
    ("setp.eq.b32 %p1, %r0, 3; @%p1 bra $x; bra.uni $y; $x: ret; "
     "$y: shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;", "shfl.*waits for lanes that never come"),
    ("setp.eq.b32 %p1, %r0, 3; @%p1 bra $x; bar.sync 0; $x: mov.b32 %r2, 0;",
     "bar.sync.*waits for lanes that never come"),
    ("div.u32 %r2, 5, %r1;", "thread 0: division by zero"),
    ("vote.sync.all.pred %p1, %p1, -1;", "instruction vote.sync.all.pred is not known"),
    ("shfl.sync.bfly.b32 %r2, %r1, 1, 31, 1;", "not all lanes are members"),
    ("mov.b64 %d5, %r1;", "%r1 has 32 bits, not 64"),
    ("mov.b32 %r2, %r99;", "%r99"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), FAULTS)
def test_faults(body: str, words: str) -> None:
    """What a card forbids or leaves undefined is told with the instruction and the thread."""
    with pytest.raises(PtxFault, match=words):
        run(body, LANES, shared_bytes=128)


def test_warps_that_wait_for_others() -> None:
    """A barrier that a warp of the block never reaches, and words of another warp's."""
    words = np.arange(64, dtype="u4")
    with pytest.raises(PtxFault, match=r"bar\.sync.*waits for warps that never come"):
        run("setp.gt.u32 %p1, %r0, 31; @%p1 bra $x; bar.sync 0; $x: mov.b32 %r2, 0;", words,
            threads=64)  # fmt: skip
    for at in (0, 4 * 40):
        with pytest.raises(PtxFault, match="reads what another thread wrote, without a barrier"):
            run(SHARE.format(barrier="bar.warp.sync -1;", at=at), words, threads=64,
                shared_bytes=256)  # fmt: skip


def test_what_a_card_lacks() -> None:
    """Instructions of later cards, and launches that a driver would refuse."""
    for body in (copying(after=WAIT), "cvt.rn.bf16x2.f32 %r2, %r1, %r1;"):
        with pytest.raises(PtxFault, match="is not for sm_75"):
            run(body, LANES, target="sm_75")
    with pytest.raises(PtxFault, match="blocks of 256 threads, of 128"):
        run("mov.b32 %r2, 0;", threads=256)
    with pytest.raises(PtxFault, match="0 of 3 parameters"):
        PtxMachine(TEXT.format(body="mov.b32 %r2, 0;", target="sm_80")).launch(
            "tiny", (1, 1, 1), 32, [], GlobalMemory([])
        )
