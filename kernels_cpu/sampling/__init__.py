"""The kernel that chooses a token from logits, and the Python that calls it.

``choice`` and ``limits`` are the kernel, ``chooser`` is the entrance, and ``layout`` is what both
agree on. What options mean is defined by ``edgellama.sampling``.
"""
