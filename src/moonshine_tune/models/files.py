"""File names of adapter and checkpoint folders, for code that must not load torch."""

ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
"""PEFT's names."""
CHECKPOINT_WEIGHTS_FILE = "model.safetensors"
"""The name that `save_pretrained` gives weights that fit in one file."""
