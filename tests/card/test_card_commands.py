"""Commands, the server and the benchmark with a graphics card that is a test double, or without.

Its kernels are naive ones: what is tested is who asks for the card, and what is told of it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_attention
import cuda_figures
import psutil
import pytest
from click.testing import CliRunner as InProcess
from conftest import CliRunner
from doubles import naive_card
from doubles.fake_cuda import FakeCard, FakeCuda
from doubles.fake_library import INVALID_VALUE
from harness.servers import running_server
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama, predict_footprint
from edgellama.cli.application import root
from edgellama.cuda import ptx_cache
from edgellama.cuda.driver import Driver
from edgellama.cuda.memory import taken_bytes
from edgellama.engine.card import calibration
from edgellama.engine.card import device as card_device
from edgellama.engine.card.choice import AttentionMode
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.measure.model_presets import ModelPreset
from edgellama.quant.errors import CacheError, CudaError, KernelError
from edgellama.server.settings import ServerSettings

NO_CARD = r"no NVIDIA driver is installed|the NVIDIA driver shows no card|no CUDA on"
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
SHAPE = TinyLlama(heads=4, kv_heads=2, head_size=8, width=32, context_length=512)
MODES = ("cpu", "cuda")
PROMPT = "one two three four five six seven"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return write_tiny_llama(tmp_path_factory.mktemp("card") / "tiny.gguf", SHAPE)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """This process's driver, which forgives nothing."""
    fake = FakeCuda(FakeCard("Double"), run=naive_card.run)
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(fake)))
    monkeypatch.setattr(card_device, "ptx_of", naive_card.stub_ptx)
    yield fake
    assert fake.violations == []


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "-p", PROMPT, "-n", "2"),
        ("batch", "{prompts}", "{output}", "-n", "2"),
        ("embed", PROMPT),
        ("bench", "-p", "8", "-n", "0", "-r", "1"),
        ("profile", "-p", "8", "-r", "1"),
        ("perplexity", "-f", "{prompts}", "-c", "16"),
        ("footprint", "--measure", "-c", "64"),
    ],
    ids=lambda command: command[0],
)
def test_without_a_card_cuda_is_refused(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Every command that runs a model asks for the card, and has the reason."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": PROMPT * 20}) + "\n", "utf-8")
    paths = {"prompts": prompts, "output": tmp_path / "texts.jsonl"}
    name, *arguments = (part.format(**paths) for part in command)
    result = InProcess().invoke(root, [name, str(model), *arguments, "--attention", "cuda"])
    assert isinstance(result.exception, CudaError), result.output
    assert re.search(NO_CARD, str(result.exception))


def test_without_a_card_cuda_is_one_line(run_cli: CliRunner, model: Path) -> None:
    """A terminal shows the reason alone, with exit code 1."""
    arguments = ("generate", model, "-p", PROMPT, "--attention", "cuda")
    result = run_cli(*arguments, environment=HIDDEN)
    assert result.returncode == 1
    assert re.fullmatch(f"edgellama: error: .*({NO_CARD}).*\n", result.stderr)


def test_auto_is_silent_without_a_card(run_cli: CliRunner, model: Path) -> None:
    """Without a card, "auto" gives the same text as the CPU and says no word about cards."""
    arguments = ("generate", model, "-p", PROMPT, "-n", "8", "--temperature", "0")
    plain = run_cli(*arguments, "--attention", "cpu", environment=HIDDEN)
    auto = run_cli(*arguments, "--attention", "auto", "--gpu-memory", "2GB", environment=HIDDEN)
    assert (plain.returncode, auto.returncode) == (0, 0)
    assert auto.stdout == plain.stdout
    assert "card" not in auto.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attention", "gpu"), "'gpu' is not one of"),
        (("--gpu", "-1"), "-1 is not in the range"),
        (("--gpu-memory", "much"), "'much'; allowed: such as 16GB"),
        (("--attention", "cpu", "--gpu", "0"), 'gpu is 0 and attention is "cpu"'),
        (("--attention", "cuda", "--exact"), "exact"),
    ],
)
def test_what_cannot_be_is_refused(
    fake: FakeCuda, model: Path, options: tuple[str, ...], message: str
) -> None:
    """A value outside its range, and two that exclude each other, are named."""
    result = InProcess().invoke(root, ["generate", str(model), "-p", PROMPT, *options])
    assert message in result.output + str(result.exception)


def test_a_footprint_tells_the_card_apart() -> None:
    """Keys and values leave the process's memory for the card's, the rest stays."""
    arguments = ["footprint", "llama-3.2-1b", "--type", "q4_0", "--kv", "f16", "-c", "8192"]

    def shown(*more: str) -> str:
        return InProcess().invoke(root, [*arguments, *more], catch_exceptions=False).stdout

    cpu, card = (json.loads(shown("--attention", mode, "-o", "json"))[0] for mode in MODES)
    assert cpu["predicted_card_bytes"] == card["predicted_kv_bytes"] == 0
    freed = cpu["predicted_total_bytes"] - card["predicted_total_bytes"]
    assert freed == cpu["predicted_kv_bytes"] == 8192 * 32768
    assert 0 < card["predicted_card_bytes"] - freed < 10e6
    assert " card" in shown("--attention", "cuda")
    assert " card" not in shown()


def test_a_model_tells_how_it_uses_its_card(fake: FakeCuda, model: Path) -> None:
    """Before a text, during it, and when the card is lost."""
    with Llama(model, attention="cuda", gpu_memory=1 << 30) as llama:
        assert llama.card_use is not None
        assert (llama.card_use.name, llama.card_use.gpu) == ("Double", 0)
        assert llama.card_use.limit_bytes == 1 << 30
        with llama.session() as session:
            session.generate(PROMPT, max_tokens=2)
            used_bytes = llama.card_use.used_bytes
            assert used_bytes > 0
            assert llama.card_use.obstacle is None
            fake.lose()
            with pytest.raises(CudaError):
                session.generate(PROMPT * 2, max_tokens=2)
            assert "CUDA_ERROR_ILLEGAL_ADDRESS" in str(llama.card_use.obstacle)
    with Llama(model, attention="cpu") as llama:
        assert llama.card_use is None
    with Llama(model) as llama:
        llama.generate(PROMPT, max_tokens=2)
        assert llama.card_use is not None
        assert (llama.card_use.mode, llama.card_use.name) == ("auto", None)


def test_kernels_are_compiled_before_the_first_text(
    fake: FakeCuda, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading for a card has its kernels, and tells of what it compiles."""
    told: list[tuple[int, int]] = []

    def ptx_of(kernels: Any, capability: Any, progress: Any = None) -> dict[Kernel, str]:
        if progress is not None:
            progress(0, len(kernels))
        return naive_card.stub_ptx(kernels, capability)

    monkeypatch.setattr(card_device, "ptx_of", ptx_of)
    with Llama(model, attention="cuda", progress=lambda *pair: told.append(pair)) as llama:
        assert told[-1:] == [(0, 3)]
        before = fake.calls.count("cuModuleLoadDataEx")
        llama.generate(PROMPT, max_tokens=2)
        assert fake.calls.count("cuModuleLoadDataEx") == before == 3


@pytest.mark.parametrize("error", [KernelError("no Numba"), CacheError("the disk is full")])
def test_kernels_that_cannot_be_compiled(
    fake: FakeCuda, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """An error for whoever asked for the card; "auto" goes on on the CPU, and says so once."""

    def ptx_of(*_: object) -> dict[Kernel, str]:
        raise error

    monkeypatch.setattr(card_device, "ptx_of", ptx_of)
    with pytest.raises(CudaError, match=f"no kernels for the graphics card: {error}"):
        Llama(model, attention="cuda")
    monkeypatch.setattr("edgellama.engine.card.late_placement.SHORTEST_AUTO", 4)
    monkeypatch.setattr("edgellama.engine.card.placement.SHORTEST_AUTO", 4)
    with Llama(model) as llama, Llama(model, attention="cpu") as other:
        texts = [m.generate(PROMPT, max_tokens=4, temperature=0).text for m in (llama, other)]
        assert texts[0] == texts[1]
        assert llama.card_use is not None
        assert str(error) in str(llama.card_use.obstacle)
    gc.collect()
    assert fake.leaks == {}


@pytest.mark.parametrize("mode", ["cuda", "auto"])
def test_memory_that_cannot_be_pinned(
    fake: FakeCuda, model: Path, monkeypatch: pytest.MonkeyPatch, mode: AttentionMode
) -> None:
    """A system that pins no more is an error for "cuda"; under "auto" texts stay on the CPU."""
    monkeypatch.setattr("edgellama.engine.card.late_placement.SHORTEST_AUTO", 4)
    monkeypatch.setattr("edgellama.engine.card.placement.SHORTEST_AUTO", 4)
    monkeypatch.setattr(calibration, "remembered", lambda *_: 0)
    fake.fail("cuMemHostRegister", INVALID_VALUE, at=3)
    with Llama(model, attention=mode) as llama, Llama(model, attention="cpu") as other:
        if mode == "cuda":
            with pytest.raises(CudaError, match="cuMemHostRegister: CUDA_ERROR_INVALID_VALUE"):
                llama.generate(PROMPT, max_tokens=4)
        texts = [m.generate(PROMPT, max_tokens=4, temperature=0).text for m in (llama, other)]
        assert texts[0] == texts[1]
        assert llama.card_use is not None
        assert "cuMemHostRegister" in str(llama.card_use.obstacle)
    gc.collect()
    assert fake.leaks == {}


def test_warmup_compiles_for_the_card(
    fake: FakeCuda, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model needs on this card is compiled, and what is shipped, for all cards."""
    wanted: list[tuple[str, tuple[int, int]]] = []
    real_ptx_of = ptx_cache.ptx_of

    def ptx_of(kernels: Any, capability: Any, progress: Any) -> dict[Kernel, str]:
        wanted.extend((kernel.name, capability) for kernel in kernels)
        return naive_card.stub_ptx(kernels, capability)

    monkeypatch.setattr("edgellama.cuda.ptx_cache.ptx_of", ptx_of)
    arguments = ["warmup", str(model), "--kv", "f16,q8_0"]
    assert InProcess().invoke(root, arguments, catch_exceptions=False).exit_code == 0
    stores = [name for name, capability in wanted if "store" in name and capability == (8, 9)]
    assert stores == ["card_store_f16_f16", "card_store_q8_0_q8_0"]
    wanted.clear()
    folder = tmp_path / "kernels"
    result = InProcess().invoke(root, [*arguments, "--export", str(folder)])
    assert "kernels of graphics cards: 6 for sm_80, 6 for sm_75" in result.output
    assert {capability for _, capability in wanted} == {(8, 0), (7, 5)}
    monkeypatch.setenv("EDGELLAMA_KERNELS", str(folder))
    kernel = Kernel("card_store", ("q8_0", "q8_0"))
    assert real_ptx_of([kernel], (8, 9)) == naive_card.stub_ptx([kernel], (8, 9))
    with Llama(model, attention="cpu") as llama:
        assert llama.generate(PROMPT, max_tokens=2).tokens


def test_a_draft_model_stays_on_the_cpu(fake: FakeCuda, model: Path) -> None:
    """A model that only guesses takes none of the card's memory."""
    with Llama(model, attention="cuda", draft=model, speculation=True) as llama:
        llama.generate(PROMPT, max_tokens=4, temperature=0)
        assert llama._own_draft is not None
        assert llama._own_draft.card_use is None
    assert fake.leaks == {}


def test_the_server_tells_of_the_card(fake: FakeCuda, model: Path) -> None:
    """/stats has each model's use of it."""
    settings = ServerSettings(models={"tiny": model}, engine={"attention": "cuda"})
    with running_server(settings) as server, server.client() as client:
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 2}
        assert client.post("/v1/completions", json=body).status_code == 200
        (told,) = client.get("/stats").json()["models"]
        assert told["graphics_card"]["name"] == "Double"
        assert told["graphics_card"]["used_bytes"] > 0
        assert told["graphics_card"]["obstacle"] is None
        used = re.search(r"graphics_card_bytes (\d+)", client.get("/metrics").text)
        assert used and int(used[1]) == told["graphics_card"]["used_bytes"]


def test_a_profile_shows_the_cards_op(fake: FakeCuda, model: Path) -> None:
    """Attention on the card is one op of the table."""
    arguments = ["profile", str(model), "-p", "0", "-r", "2", "--attention", "cuda", "-o", "json"]
    result = InProcess().invoke(root, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "attend_on_card" in result.stdout


def test_predictions_are_what_is_taken(fake: FakeCuda, model: Path) -> None:
    """A full context takes the predicted bytes of the card, tables of a step besides."""
    on_card = predict_footprint(model, context_length=256, attention="cuda").card_bytes
    with Llama(model, attention="cuda") as llama, llama.session(context_length=256) as session:
        session.generate([1] * 255, max_tokens=1)
        assert llama.card_use is not None
        assert on_card <= llama.card_use.used_bytes <= on_card + 200_000


def test_predictions_count_whole_blocks(fake: FakeCuda, tmp_path: Path) -> None:
    """Pages of 1.5 MB take the driver's blocks of 2 MB, in predictions as on the card."""
    wide = TinyLlama(heads=8, kv_heads=8, head_size=128, layers=3, context_length=512)
    model = write_tiny_llama(tmp_path / "wide.gguf", wide)
    on_card = predict_footprint(model, context_length=512, attention="cuda").card_bytes
    assert on_card >= 4 * taken_bytes(3 * 8 * 2 * 128 * 128 * 2) == 4 << 21
    with Llama(model, attention="cuda") as llama, llama.session(context_length=512) as session:
        session.generate([1] * 511, max_tokens=1)
        assert llama.card_use is not None
        assert on_card <= llama.card_use.used_bytes <= on_card + (2 << 20)


@pytest.mark.parametrize("name", cuda_figures.FIGURES)
def test_a_figure_is_measured(
    fake: FakeCuda, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Here over a double whose times mean nothing, and texts are the same."""
    monkeypatch.setattr(calibration, "folder_to_fill", lambda _: tmp_path)
    options = {
        "ready": {"kv_types": ["f16", "q8_0"]},
        "check": {"kv_type": "f16", "tokens": 40, "steps": 3},
        "bus": {"depth": 256, "rounds": 2},
        "switch": {},
        "prefill": {"kv_type": "f16", "depth": 256, "prompt": 20, "rounds": 2},
        "end": {"attention": "cuda", "depth": 256, "prompt": 20, "rounds": 1},
    }.get(name, {"kv_type": "f16", "depth": 256, "rounds": 2})
    rows = list(cuda_figures.FIGURES[name](str(model), **options))
    assert rows and all(row["is_met"] in (True, False, None) for row in rows)
    if name == "ready":
        assert {row.get("kernel", "card_store_f16_f16")[5:10] for row in rows} == {"store", "atten"}
        assert len(rows) == 8 and all(row["is_met"] for row in rows if "kernel" in row)
    if name == "check":
        assert (rows[0]["same_tokens"], rows[0]["is_met"]) == (3, True)


def test_the_benchmark_survives_what_fails(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Processes that fail, say half of it or hang leave rows that tell it; all else is there."""
    program, worker = tmp_path / "figures.py", tmp_path / "worker"
    program.write_text(
        "import subprocess, sys, time, json\n"
        "part, options = sys.argv[1], json.loads(sys.argv[3])\n"
        "row = {'part': part, 'model': 'tiny', 'depth': 9, 'is_met': None, **options}\n"
        "row |= {'step': 'decode', 'milliseconds': {'cpu': 30, 'cuda': 10}[options['attention']]}"
        " if part == 'end' else {}\n"
        "row |= {'switching_depth': 5} if part == 'switch' else {}\n"
        "print(json.dumps(row), flush=True)\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "if part == 'piece':\n"
        f"    open({str(worker)!r}, 'w').write(str(subprocess.Popen(command).pid))\n"
        "time.sleep({'piece': 60, 'ready': 2.5}.get(part, 0))\n"
        "sys.exit('CUDA_ERROR_LAUNCH_FAILED' if part == 'bus' else 0)\n"
    )
    monkeypatch.setattr(Driver, "load", lambda: Driver(FakeCuda()))
    monkeypatch.setattr(cuda_attention, "FIGURES", program)
    output = tmp_path / "card.json"
    arguments = ["--models", str(model), "--depths", "9", "--kv", "f16", "--limit", "2"]
    assert cuda_attention.main([*arguments, "--output", str(output)]) == 0
    rows = json.loads(output.read_text("utf-8"))
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    assert {row["part"] for row in rows} == {"card", "gain", *cuda_attention.PARTS}
    errors = {row["part"]: row["error"] for row in rows if "error" in row}
    assert errors["bus"] == "CUDA_ERROR_LAUNCH_FAILED"
    assert errors["piece"] == "ended after 2 s"
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(worker.read_text())).status() == psutil.STATUS_ZOMBIE
    assert errors.keys() <= {"bus", "piece", "sanitizer"}
    (gain,) = [row for row in rows if row["part"] == "gain"]
    assert (gain["gain"], gain["goal"], gain["is_met"]) == (3, 1, True)
    assert cuda_attention.main([*arguments, "--total", "0", "--parts", "decode"]) == 0
    assert "no time was left" in capsys.readouterr().out


def test_the_benchmark_tells_which_models_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs the figures of that model alone."""

    def write(path: Path, preset: ModelPreset, *_: object) -> None:
        path.write_bytes(b"begun")
        if preset.name == "llama-3.2-1b":
            raise OSError("No space left on device")

    monkeypatch.setattr(cuda_attention, "write_model", write)
    report = cuda_attention.Report(None)
    paths = list(cuda_attention.model_paths(cuda_attention.parsed([]), tmp_path, report))
    assert [Path(path).stem for path in paths] == ["llama-3.1-8b"]
    assert [row["error"] for row in report.rows] == ["No space left on device"]
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_says_that_there_is_no_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 1; nothing is written or measured."""
    monkeypatch.setattr("edgellama.cuda.driver.LIBRARIES", {})
    assert cuda_attention.main([]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("no card, so nothing was measured: ")
