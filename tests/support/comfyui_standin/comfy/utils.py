"""Files."""

from safetensors.torch import load_file


def load_torch_file(path, safe_load=False):  # noqa: ARG001
    return load_file(path)
