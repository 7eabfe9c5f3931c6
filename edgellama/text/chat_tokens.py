"""The messages of a chat as the tokens of a prompt, by a model's chat template.

Only the template gives control tokens. A message that looks like one stays text: its place is
marked with ``content_marks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgellama.quant.errors import TemplateError
from edgellama.text.chat_template import ChatTemplate, checked_messages
from edgellama.text.content_marks import ContentMarks
from edgellama.text.surrogates import well_formed
from edgellama.text.tokenizer.added_tokens import Stretch
from edgellama.text.tokenizer.base import Tokenizer


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, object]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **variables: object,
) -> list[int]:
    """The prompt as tokens, with one BOS where the model wants one or the template writes one.

    Control tokens come from the template alone; what looks like one inside a message or a
    variable is text. With ``continue_final_message`` the prompt ends behind the last message's
    text, so that what follows carries it on. ``variables`` go to the template by name. Raises
    TemplateError as ``render`` does, and where that text is not found in the prompt.
    """
    add_generation_prompt = add_generation_prompt and not continue_final_message
    marks = ContentMarks(tokenizer.control_texts(), [messages, variables], template.source)
    hidden = marks.hide_control(variables)

    def cut(marked: list[dict[str, object]]) -> list[Stretch | int]:
        prompt = template.render(marked, add_generation_prompt=add_generation_prompt, **hidden)
        return tokenizer.split_special(well_formed(prompt))

    checked = checked_messages(messages)
    parts = _parts(tokenizer, marks, checked, cut)
    if continue_final_message:
        parts = _up_to_final_text(parts, str(checked[-1]["content"]) if checked else "")
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, int):
            tokens.append(part)
        else:
            tokens += tokenizer.encode_stretch(part)
    return _with_one_bos(tokens, tokenizer)


def _parts(
    tokenizer: Tokenizer,
    marks: ContentMarks,
    messages: list[dict[str, object]],
    cut: Callable[[list[dict[str, object]]], list[Stretch | int]],
) -> list[Stretch | int]:
    """The prompt cut at control tokens, from messages that were marked while it was made.

    Marking every character is certain, but a template that looks inside messages then acts
    differently. Where that shows in the prompt, only the punctuation of control tokens is
    marked, and where even that shows, only whole texts of control tokens inside messages.
    """

    def shown(marked: list[dict[str, object]]) -> list[Stretch | int]:
        return [
            part if isinstance(part, int) else replace(part, text=marks.show(part.text))
            for part in cut(marked)
        ]

    def text(parts: list[Stretch | int]) -> str:
        return "".join(
            tokenizer.token_text(part) if isinstance(part, int) else part.text for part in parts
        )

    loosest = shown([marks.hide_control(message) for message in messages])
    for characters in (marks.of_characters, marks.of_punctuation):
        parts = shown([marks.hide_content(message, characters) for message in messages])
        if text(parts) == text(loosest):
            return parts
    return loosest


def _up_to_final_text(parts: list[Stretch | int], content: str) -> list[Stretch | int]:
    """The parts up to the end of the last message's text, with its spaces if they were kept."""
    for wanted in (content.lstrip(), content.strip()):
        for index in reversed(range(len(parts)) if wanted else ()):
            part = parts[index]
            if isinstance(part, Stretch) and wanted in part.text:
                end = part.text.rindex(wanted) + len(wanted)
                return [*parts[:index], replace(part, text=part.text[:end])]
    raise TemplateError(
        "the last message cannot be carried on, since its text is empty or the template writes "
        "it otherwise"
    )


def _with_one_bos(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """The tokens with as many leading BOS as the model and the template together want: 0 or 1."""
    bos = tokenizer.special.bos_id
    if bos is None or (tokens[:1] != [bos] and not tokenizer.special.add_bos):
        return tokens
    num_leading = next((i for i, token in enumerate(tokens) if token != bos), len(tokens))
    return [bos, *tokens[num_leading:]]
