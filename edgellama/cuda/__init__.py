"""Keys, values and attention on a graphics card of NVIDIA's, without any package of theirs."""
