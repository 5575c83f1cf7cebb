"""Commands on a LoRA file: what it does, and whether ComfyUI uses it whole."""
