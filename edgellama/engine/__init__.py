"""Runs a Llama over token ids: weights, threads, the KV cache, and steps that callers share.

It knows no text, no sampling and no sessions. ``text_engine`` says what may be asked of an engine;
a step is followed from ``scheduler`` over ``step_runs`` and ``step`` to ``llama_program``, the keys
and values of a sequence from ``kv_cache`` to ``page_pool``.
"""
