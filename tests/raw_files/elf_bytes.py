"""Object files for tests of the loader, made by LLVM from a few lines for any machine."""

from __future__ import annotations

import functools

from llvmlite import binding

NAME = "sample"
X86_LINUX, X86_WINDOWS = "x86_64-unknown-linux-gnu", "x86_64-pc-windows-msvc-elf"
ARM_LINUX, ARM_MAC = "aarch64-unknown-linux-gnu", "arm64-apple-darwin-elf"
TABLE = (1.5, -2.25, 3.125, 1e10)
SUM = (2.5, -0.25, 6.125, 1e10)
"""The table and 1, 2, 3, 4, as f32."""
SOURCE = f"""
target triple = "{{triple}}"
@table = internal constant [4 x float] [{", ".join(f"float {x:.16e}" for x in TABLE)}]
@chosen = internal constant [2 x i64] [i64 11, i64 22]
declare ptr @memcpy(ptr, ptr, i64)
define void @{NAME}(i64 %record, i64 %thread, i64 %job) nounwind {{{{
  %to = inttoptr i64 %record to ptr
  %vector = load <4 x float>, ptr @table, align 16
  %sum = fadd <4 x float> %vector, <float 1.0, float 2.0, float 3.0, float 4.0>
  store <4 x float> %sum, ptr %to, align 1
  %place = getelementptr i64, ptr @chosen, i64 %thread
  %number = load i64, ptr %place, align 8
  %second = getelementptr i8, ptr %to, i64 16
  store i64 %number, ptr %second, align 8
  %third = getelementptr i8, ptr %to, i64 24
  %copied = call ptr @memcpy(ptr %third, ptr @table, i64 %job)
  ret void
}}}}
"""
"""Writes ``SUM``, a number that ``thread`` chooses, and ``job`` bytes of ``TABLE`` by memcpy."""


@functools.cache
def sample_object(triple: str = X86_LINUX, code_model: str = "small") -> bytes:
    """The object of ``SOURCE`` for a machine, as kernels are compiled."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(triple)
    machine = target.create_target_machine(
        reloc="static" if code_model == "large" else "pic", codemodel=code_model, opt=2
    )
    module = binding.parse_assembly(SOURCE.format(triple=triple))
    return bytes(machine.emit_object(module))
