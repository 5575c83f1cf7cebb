"""Models, and LoRAs on them."""

from types import SimpleNamespace

from safetensors.torch import load_file

from comfy import cli_args, lora


def load_diffusion_model(path):
    assert cli_args.args.cpu, "a test has no other device"
    prefix = "model.diffusion_model."
    weights = {
        name.removeprefix("model."): tensor for name, tensor in load_file(path).items() if name.startswith(prefix)
    }
    if not weights:
        return None
    return SimpleNamespace(model=SimpleNamespace(state_dict=lambda: weights), patches={})


def load_lora_for_models(model, clip, keys, strength, strength_clip):  # noqa: ARG001
    matrices = [name for name in model.model.state_dict() if name.endswith(".weight")]
    patches = lora.load_lora(keys, lora.key_map(matrices))
    return SimpleNamespace(model=model.model, patches={key: [(strength, one)] for key, one in patches.items()}), clip
