"""From f32 rows to blocks of every format that is written, and back.

``quantize_legacy`` rounds; ``quantize_blocks`` and ``quantize_kquants`` search for the scales that
lose least; ``quantize_errors`` measures what is lost.
``row_codec`` is the entrance for the converter. Which format a tensor gets is decided by
``quant.recipes`` and the converter.
"""
