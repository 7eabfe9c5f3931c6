"""Runs a Llama over token ids: weights, threads, the KV cache, and steps that callers share.

It knows no text, no sampling and no sessions. ``text_engine`` says what may be asked of an engine,
``engine`` is one in this process, and ``local_engine`` owns its parts. These lie in rooms, of which
each imports only earlier ones: ``weights``, ``pages``, ``saved``, ``program``, ``steps``,
``scheduling``, ``running``, ``card``.

A step is followed from ``scheduling.scheduler`` over ``running.step_runs`` and ``steps.step`` to
``program.llama_program``, the keys and values of a sequence from ``pages.kv_cache`` to
``pages.page_pool``.
"""
