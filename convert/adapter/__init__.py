"""LoRA adapters of PEFT as GGUF adapters.

``lora`` is the whole conversion. ``lora_config`` and ``lora_tensors`` read the two files of an
adapter, and ``lora_base`` the model that it must fit. The engine runs adapters.
"""
