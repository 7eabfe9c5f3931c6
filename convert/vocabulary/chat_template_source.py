"""A checkpoint's chat template: where Hugging Face's programs keep it, and GGUF's keys for it.

Templates are not checked here. They are run later, in a sandbox, when somebody chats.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.json_fields import Fields, read_fields, read_text
from edgellama.quant.errors import ModelFileError

KEY = "tokenizer.chat_template"
NAMES_KEY = "tokenizer.chat_templates"
DEFAULT = "default"
FOLDERS = ("additional_chat_templates", "chat_templates")
MAX_TEMPLATES = 64
_KIND = "a Jinja template"


def chat_template_items(folder: Path, settings: Fields) -> dict[str, MetadataItem]:
    """The keys of the templates in a folder; none if it has none.

    ``settings``: tokenizer_config.json. Templates in files of their own go before those in it, as
    in transformers, and those before ``chat_template.json``.
    """
    templates = _in_files(folder)
    if not templates:
        templates = _in_field(settings) or _in_field(read_fields(folder / "chat_template.json"))
    items = {}
    names = sorted(name for name in templates if name != DEFAULT)
    for name in names:
        items[f"{KEY}.{name}"] = metadata.text(templates[name])
    if names:
        items[NAMES_KEY] = metadata.texts(names)
    if DEFAULT in templates:
        items[KEY] = metadata.text(templates[DEFAULT])
    return items


def _in_files(folder: Path) -> dict[str, str]:
    templates = {}
    main = folder / "chat_template.jinja"
    if main.is_file():
        templates[DEFAULT] = read_text(main, _KIND)
    others = [path for name in FOLDERS for path in sorted((folder / name).glob("*.jinja"))]
    if len(others) > MAX_TEMPLATES:
        raise ModelFileError(f"{folder}: {len(others)} templates; allowed: {MAX_TEMPLATES}")
    for path in others:
        templates.setdefault(_key_part(path.stem), read_text(path, _KIND))
    return templates


def _in_field(fields: Fields) -> dict[str, str]:
    """The field ``chat_template``: one template, a list of named ones, or an object of them."""
    value = fields.values.get("chat_template")
    if isinstance(value, list):
        named = [(entry.text("name"), entry.text("template")) for entry in _entries(fields)]
    elif isinstance(value, dict):
        entries = fields.fields("chat_template")
        named = [(name, entries.text(name)) for name in entries.values]
    else:
        named = [(DEFAULT, fields.text("chat_template"))]
    return {_key_part(name): template for name, template in named if name and template}


def _entries(fields: Fields) -> list[Fields]:
    entries = list(fields.objects("chat_template"))
    if len(entries) > MAX_TEMPLATES:
        raise fields.error("chat_template", f"up to {MAX_TEMPLATES} templates")
    return entries


def _key_part(name: str) -> str:
    """A template's name with nothing in it that a key cannot hold."""
    return re.sub("[^A-Za-z0-9]", "_", name)
