"""Which weight a key of a LoRA changes, and how.

A weight `diffusion_model.X.weight` is known as `diffusion_model.X` and as `lora_unet_X` with underscores. Factors are
lora_up and lora_down, or lora_B and lora_A; without an alpha the scale is 1. Other keys are named in the log.
"""

import logging

_FACTORS = (("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight"))


def key_map(weights):
    known = {}
    for weight in weights:
        layer = weight.removesuffix(".weight")
        known[layer] = weight
        known["lora_unet_" + layer.removeprefix("diffusion_model.").replace(".", "_")] = weight
    return known


def load_lora(keys, known):
    patches, used = {}, set()
    for layer, weight in known.items():
        for up, down in _FACTORS:
            names = f"{layer}.{up}", f"{layer}.{down}"
            if all(name in keys for name in names):
                alpha = keys.get(f"{layer}.alpha")
                scale = 1.0 if alpha is None else alpha.item() / len(keys[names[1]])
                patches[weight] = keys[names[0]], keys[names[1]], scale
                used |= {*names, f"{layer}.alpha"}
    for name in keys:
        if name not in used:
            logging.warning("lora key not loaded: %s", name)
    return patches


def calculate_weight(patches, weight, key):  # noqa: ARG001
    for strength, (up, down, scale) in patches:
        weight = weight + strength * scale * (up.float() @ down.float())
    return weight
