"""What a Llama's file says of it: names, shapes, sizes and constants, from any kind of source.

``description`` joins it all. ``family`` says what is a Llama, ``names`` and ``hparams`` turn names
and sizes into GGUF's. Nothing is quantized here.
"""
