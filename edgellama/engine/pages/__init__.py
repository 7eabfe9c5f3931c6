"""Keys and values of texts, in pages of 128 positions.

``kv_cache`` holds those of one sequence; ``page_pool`` counts pages and finds them again;
``page_layout`` and ``card_layout`` say where numbers lie in them. Kernels read and write them.
"""
