"""Chat formats by name, as their publishers wrote them, for files without a template.

The templates are Jinja files in ``templates``. Only a model's makers know which one it was trained
with, so nothing here guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass
from edgellama.quant.ways import Way


@dataclass(frozen=True)
class NamedTemplate:
    """A published format: who uses it, and strings that end a reply where no token does.

    A vocabulary may lack the format's own tokens; then the model writes them as text.
    """

    users: str
    stop: tuple[str, ...] = ()


NAMED_TEMPLATES: Mapping[str, NamedTemplate] = MappingProxyType(
    {
        "llama2": NamedTemplate("Llama 2 Chat, Code Llama Instruct"),
        "llama3": NamedTemplate("Llama 3, 3.1, 3.2 and 3.3 Instruct", ("<|eot_id|>",)),
        "chatml": NamedTemplate("Hermes, Dolphin, OpenOrca, SmolLM2", ("<|im_end|>",)),
        "mistral": NamedTemplate("Mistral 7B Instruct v0.1 and v0.2"),
        "zephyr": NamedTemplate("Zephyr, TinyLlama Chat", ("<|user|>",)),
        "alpaca": NamedTemplate("Alpaca, WizardCoder, many early models", ("### Instruction:",)),
        "vicuna": NamedTemplate("Vicuna 1.1 and later, LLaVA"),
        "wizardlm": NamedTemplate("WizardLM 13B, 30B and 70B"),
        "koala": NamedTemplate("Koala"),
        "openassistant": NamedTemplate("OpenAssistant's LLaMa models", ("<|prompter|>",)),
        "guanaco": NamedTemplate("Guanaco", ("### Human:",)),
    }
)


def find_template(name: str) -> str | None:
    """The name in the table that is meant, whatever its case, hyphens and points; None if none."""
    plain = "".join(character for character in name.lower() if character.isalnum())
    return plain if plain in NAMED_TEMPLATES else None


def template_source(name: str) -> str:
    """The Jinja source of a name in the table."""
    from importlib.resources import files

    return (files("edgellama.text") / "templates" / f"{name}.jinja").read_text("utf-8")


def missing_template() -> Way:
    """What helps with a file that has no template."""
    names = ", ".join(NAMED_TEMPLATES)
    return Way(
        f"name the format that it was trained with, chat(template=NAME) with one of {names}, or "
        "pass Jinja source; generate() continues a text as it is",
        f"name the format that it was trained with, --template NAME with one of {names}, or a "
        "Jinja file; edgellama generate continues a text as it is",
    )


def unknown_template(text: str) -> InvalidOptionError:
    """The error for what is neither a name nor Jinja."""
    names = ", ".join(NAMED_TEMPLATES)
    return InvalidOptionError(
        f"no chat format is called {text!a:.80}",
        way=Way(f"allowed: Jinja source, or one of {names}", f"allowed: a file, or one of {names}"),
    )
