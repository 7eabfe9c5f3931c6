"""Plans of a cluster: their sums, what does not fit, and what a user reads."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.cluster.machines import ClusterMachine, read_machines
from edgellama.cluster.planning import CALL_SECONDS, REACHED_SHARE, Wish, fits, plan
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.measure.footprint import Machine, tensor_bytes
from edgellama.measure.model_outline import ModelOutline
from edgellama.measure.model_presets import MODEL_PRESETS
from edgellama.quant.errors import InvalidOptionError

HOST = Machine(select_tier(), 8)


def wish_for(name: str, type: str = "q4_k_m", context_length: int = 4096) -> Wish:
    """A preset with one text of f16 keys and values."""
    outline = ModelOutline.from_preset(MODEL_PRESETS[name])
    return Wish(outline, type, KVTypes.of("f16"), context_length, HOST)


def test_the_sums_of_two_laptops_with_70b() -> None:
    """Each figure is what multiplication by hand gives."""
    wish = wish_for("llama-3.3-70b")
    found = plan(wish, read_machines("laptop:24GB:60,desk:32GB:80"))
    laptop, desk = found.stages
    sizes = tensor_bytes(wish.outline, "q4_k_m")
    assert (
        laptop.weights_bytes + desk.weights_bytes
        == sum(sizes.values()) - sizes["rope_freqs.weight"]
    )
    assert laptop.layers.stop == desk.layers.start
    assert desk.layers.stop == 80
    # Two of f16 for keys and values of 8 heads of 128 numbers, in 80 layers at 4096 positions.
    assert laptop.kv_bytes + desk.kv_bytes == 2 * 2 * 8 * 128 * 80 * 4096
    # A row of 8192 numbers and a token there, the next token back.
    assert found.token_wire_bytes == 4 * 8192 + 4 + 4 == 32_776
    assert found.chunk_wire_bytes == 256 * (4 * 8192 + 4)
    reading = laptop.read_bytes / (REACHED_SHARE * 60e9) + desk.read_bytes / (REACHED_SHARE * 80e9)
    wire = CALL_SECONDS + 8 * 32_776 / 1e9
    assert found.tokens_per_second == pytest.approx(1 / (reading + wire))


@pytest.mark.parametrize(
    ("name", "machines", "layers", "width", "hidden", "value_format"),
    [
        ("llama-3.1-405b", "node*4:128GB:200:10", 126, 16384, 53248, "q4_k"),
        ("llama-3.3-70b", "laptop:24GB:60,desk:32GB:80", 80, 8192, 28672, "q5_k"),
    ],
)
def test_every_stage_has_the_bytes_of_its_matrices(
    name: str, machines: str, layers: int, width: int, hidden: int, value_format: str
) -> None:
    """A stage has the bytes of published sizes and llama.cpp's mixture, summed up here."""
    block = {"q4_k": 144, "q5_k": 176, "q6_k": 210}
    vocabulary, cached = 128256, 8 * 128

    def matrix(rows: int, kind: str, columns: int = width) -> int:
        return rows * columns // 256 * block[kind]

    def layer(number: int) -> int:
        # An eighth at both ends, and every third between, have more bits.
        eighth = layers // 8
        is_fine = number < eighth or number >= 7 * layers // 8 or (number - eighth) % 3 == 2
        total = 2 * matrix(width, "q4_k") + matrix(cached, "q4_k") + 2 * matrix(hidden, "q4_k")
        total += matrix(cached, "q6_k" if is_fine else value_format)
        return total + matrix(width, "q6_k" if is_fine else "q4_k", hidden) + 2 * 4 * width

    found = plan(wish_for(name), read_machines(machines))
    for stage in found.stages:
        own = sum(map(layer, stage.layers))
        own += matrix(vocabulary, "q6_k") + 4 * width if stage is found.stages[-1] else 0
        assert stage.read_bytes == own
        first = matrix(vocabulary, "q4_k") if stage.is_driver else 0
        assert stage.weights_bytes == own + first
        assert stage.kv_bytes == len(stage.layers) * 4096 * 2 * 2 * cached


def test_405b_fits_four_machines_of_128_gb() -> None:
    """In 4 bits three of them are enough; in 8 bits all four are needed."""
    machines = read_machines("node*4:128GB:200:10")
    small, large = (plan(wish_for("llama-3.1-405b", type), machines) for type in ("q4_k_m", "q8_0"))
    assert [stage.machine.name for stage in small.stages] == ["node-1", "node-2", "node-3"]
    assert [len(stage.layers) for stage in large.stages] == pytest.approx([32, 32, 31, 31], abs=1)
    for stage in (*small.stages, *large.stages):
        assert stage.total_bytes <= 128e9


@settings(max_examples=25)
@given(
    st.sampled_from(["smollm2-135m", "llama-3.2-1b", "llama-3.1-8b", "llama-2-70b"]),
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(10, 400), st.sampled_from([0.1, 1.0, 10.0])),
        min_size=1,
        max_size=4,
    ),
)
def test_every_plan_has_all_layers_once_and_fits(
    name: str, sizes: list[tuple[int, int, float]]
) -> None:
    """Stages follow each other, none exceeds its memory, and one machine more never hurts."""
    wish = wish_for(name)
    machines = [
        ClusterMachine(f"m{number}", memory * 10**9, bandwidth, network)
        for number, (memory, bandwidth, network) in enumerate(sizes)
    ]
    if not fits(wish, machines):
        with pytest.raises(InvalidOptionError, match="a further machine of"):
            plan(wish, machines)
        return
    found = plan(wish, machines)
    layers = [layer for stage in found.stages for layer in stage.layers]
    assert layers == list(range(wish.outline.config.block_count))
    for stage in found.stages:
        assert stage.total_bytes <= stage.machine.memory_bytes
    more = [*machines, replace(machines[0], name="more", memory_bytes=10**12)]
    assert plan(wish, more).tokens_per_second >= 0.98 * found.tokens_per_second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:1GB", "machine 'a:1GB'; allowed: NAME:MEMORY:BANDWIDTH"),
        ("a:1GB:fast", "bandwidth, in GB/s, is 'fast'; allowed: 0.001"),
        ("a:1GB:10:0", "network, in Gbit/s, is '0'"),
        ("a:much:10", "a memory of 'much'"),
        ("a*0:1GB:10", "so many of them; allowed: 1 to 64"),
        ("a:1GB:nan", "is 'nan'"),
        (",:", "machine ':'"),
        ("a:1GB:1e-320", "allowed: 0.001 to 1,000,000"),
        ("a:1GB:1e309", "bandwidth, in GB/s, is '1e309'"),
        ("a:1GB:1_0", "bandwidth"),
        ("a:1GB:5:nan", "network"),
        ("a\x1b[31m:1GB:5", r"machine 'a.x1b.31m:1GB:5'; allowed"),
        ("a|b:1GB:5", "machine"),
        ("a*\u0663:1GB:5", "machine"),
        (f"a*{'9' * 5000}:1GB:5", "so many of them"),
        ("a:" + "9" * 100_000, "^.{1,250}$"),
        ("a\0", "no such file"),
        ("a:1GB:5,a-1:1GB:5,a:1GB:5", "two machines are called a-1"),
        ("nowhere.txt", "no such file; allowed too: NAME:MEMORY"),
    ],
)
def test_wrong_machines_are_refused(text: str, message: str) -> None:
    """In one line, with what is allowed."""
    with pytest.raises(InvalidOptionError, match=message.replace("(", r"\(").replace("*", r"\*")):
        read_machines(text)


def test_the_command_prints_all_styles(run_cli: CliRunner, tmp_path: Path) -> None:
    """People get a table, programs the same figures as JSON and CSV, from a file too."""
    file = tmp_path / "machines.txt"
    file.write_text("# what we have\nlaptop:24GB:60\ndesk:32GB:80:2.5  # cable\n", "utf-8")
    arguments = ("cluster", "plan", "llama-3.3-70b", "--machines", file)
    table = run_cli(*arguments)
    assert table.returncode == 0, table.stderr
    rows = json.loads(run_cli(*arguments, "-o", "json").stdout)
    assert [row["machine"] for row in rows] == ["laptop", "desk"]
    assert f"{rows[0]['tokens_per_second']:.2f} tokens/s at the start" in table.stdout
    written = list(csv.DictReader(io.StringIO(run_cli(*arguments, "-o", "csv").stdout)))
    assert [row["layers"] for row in written] == [row["layers"] for row in rows]


def test_what_does_not_fit_says_what_would(run_cli: CliRunner) -> None:
    """The refusal names the bytes, a further machine and a smaller type that fits."""
    machines = "a:16GB:60,b:16GB:80"
    result = run_cli("cluster", "plan", "llama-3.3-70b", "--machines", machines)
    assert result.returncode == 1
    assert "needs 44.1 GB on 2 machines" in result.stderr
    assert "a further machine of" in result.stderr
    alone = run_cli("cluster", "plan", "llama-3.3-70b", "--machines", "a:16GB:60")
    assert "GB on one machine, in layers of 0.56 GB; 16.0 GB are there" in alone.stderr
    assert "--type q2_k" in result.stderr
    smaller = ("cluster", "plan", "llama-3.3-70b", "--machines", machines, "--type", "q2_k")
    assert run_cli(*smaller).returncode == 0


def test_a_text_with_one_machine_needs_no_cluster(run_cli: CliRunner, smollm2_path: Path) -> None:
    """What fits here runs here; a published size is no file."""
    run = ("cluster", "run", smollm2_path, "--machines", "here:4GB:20")
    result = run_cli(*run, "-p", "The capital of France is", "-n", "2", "--temperature", "0")
    assert result.stdout == " Paris.\n"
    refused = run_cli("cluster", "run", "llama-2-7b", "--machines", "here:4GB:20", "-p", "A")
    assert refused.returncode == 1
    assert "needed: a GGUF file" in refused.stderr
