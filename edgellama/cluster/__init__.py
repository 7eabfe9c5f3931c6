"""A model over several machines, and many models beside each other.

Begin with ``spread_llama``, a model whose layers run on ``stages``. ``driver`` holds its texts, and
``connections`` joins the two over a network. The ``ray_*`` files use Ray: ``ray_serve`` runs whole
servers side by side, ``ray_batch`` a file of prompts.
"""
