"""What a file says about a Llama: names, shapes, sizes and constants, from any kind of source.

``description`` joins them. ``family`` says what is a Llama, ``names`` and ``hparams`` turn names
and sizes into GGUF's. Nothing is quantized here.
"""
