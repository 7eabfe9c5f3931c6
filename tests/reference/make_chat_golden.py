"""Writes tests/data/chat_golden.json: what ``transformers`` renders for real chat templates.

Run in ``tests`` with transformers installed: ``python -m reference.make_chat_golden``. Each
case holds a template, the BOS and EOS texts, messages, and the prompt that came out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

GOLDEN = Path(__file__).parent.parent / "data" / "chat_golden.json"

TEMPLATES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n'"
        " + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}"
    ),
    "helpers": (
        "    {%- for message in messages %}\n"
        "        {%- if message.role == 'tool' %}{% continue %}{% endif %}\n"
        "        {{- message | tojson(indent=2) }}{% if loop.index > 2 %}{% break %}{% endif %}\n"
        "    {% generation %}\n"
        "    reply {{ message.content.split('</think>')[-1].lstrip('\\n') }}\n"
        "    {% endgeneration %}\n"
        "    {%- endfor %}\n"
        "{% if tools is not none %}tools{% endif %}{{ {'b': 1, 'a': '<\u00e9>'} | tojson }}"
    ),
}
CONVERSATIONS = {
    "one": [("user", "  Hi, how are you?\n")],
    "system": [("system", "Be brief."), ("user", "caf\u00e9 <b>&amp;</b> \U0001f600 ' \"")],
    "turns": [
        ("user", "one"),
        ("assistant", "<think>\nhm</think>\n\ntwo "),
        ("user", "three {{ bos_token }}"),
    ],
}
BOS, EOS = "<s>", "</s>"


def main() -> None:
    """Write every template with every conversation, with and without the reply's start."""
    cases: list[dict[str, Any]] = []
    for name, template in TEMPLATES.items():
        for conversation, turns in CONVERSATIONS.items():
            messages = [{"role": role, "content": content} for role, content in turns]
            for add_generation_prompt in (True, False):
                rendered, _ = render_jinja_template(
                    [messages],
                    chat_template=template,
                    add_generation_prompt=add_generation_prompt,
                    bos_token=BOS,
                    eos_token=EOS,
                )
                cases.append(
                    {
                        "name": f"{name}-{conversation}-{add_generation_prompt}",
                        "template": template,
                        "messages": messages,
                        "add_generation_prompt": add_generation_prompt,
                        "bos_token": BOS,
                        "eos_token": EOS,
                        "prompt": rendered[0],
                    }
                )
    GOLDEN.write_text(json.dumps(cases, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main()
