"""Writes tests/data/pipeline_golden.json: what transformers' text-generation pipeline returns.

Run in ``tests`` with torch, transformers and accelerate installed:
``python -m reference.make_pipeline_golden``. The starter model is read from its GGUF file.
Texts are short and certain ones, since the engine rounds otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parent.parent / "data" / "pipeline_golden.json"
FRANCE, ONE = "The capital of France is", "One,"
CHAT = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "What is the capital of Italy?"},
    {"role": "assistant", "content": "The capital of Italy is"},
]
GREEDY = {"max_new_tokens": 2, "do_sample": False}
CASES: list[tuple[Any, dict[str, Any]]] = [
    (FRANCE, GREEDY),
    ([FRANCE, ONE], GREEDY),
    ([FRANCE], GREEDY),
    (FRANCE, GREEDY | {"return_full_text": False}),
    (FRANCE, GREEDY | {"return_full_text": True, "repetition_penalty": 1.1}),
    (FRANCE, GREEDY | {"return_tensors": True}),
    (FRANCE, {"max_length": 6, "do_sample": False}),
    (FRANCE, {"max_new_tokens": 9, "do_sample": False, "stop_sequence": " Paris"}),
    (FRANCE, {"max_new_tokens": 9, "do_sample": False, "eos_token_id": 7042}),
    (FRANCE, GREEDY | {"prefix": "Paris, Paris. ", "batch_size": 1}),
    (CHAT, GREEDY),
    (CHAT, GREEDY | {"return_full_text": False}),
    ([CHAT, CHAT], GREEDY),
    (CHAT[:2], {"max_new_tokens": 1, "do_sample": False, "continue_final_message": False}),
    (FRANCE, {"max_new_tokens": 2, "top_k": 1, "num_return_sequences": 2}),
    ([FRANCE, ONE], {"max_new_tokens": 2, "top_k": 1, "num_return_sequences": 2}),
]


def main() -> None:
    """Write what the pipeline returns for every case."""
    import transformers

    from edgellama import pull

    path = pull("smollm2")
    folder, name = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name)
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    records = [
        {"input": text, "options": options, "output": pipe(text, **options)}
        for text, options in CASES
    ]
    OUTPUT.write_text(json.dumps(records, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
