"""What `sonolora serve` says at its start: where it is, how to be let in, what to paste.

In: the settings with their real ports, and the key when it has just been made. Out: text for a terminal.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sonolora import __version__
from sonolora.server import client_examples as examples
from sonolora.server.net.urls import own_address
from sonolora.server.settings import EMBEDDED_BASE, ServerSettings

_NO_KEY = "YOUR_KEY"


def banner(settings: ServerSettings, first_key: str | None, keys: int) -> str:
    """`keys` is how many are valid; they are known by their hashes alone, so that none can be shown again."""
    address, key = own_address(settings), first_key or _NO_KEY
    where = urlsplit(address).hostname or settings.host
    where = f"[{where}]" if ":" in where else where
    lines = [f"Sonolora {__version__} serves at {address}  (base {settings.base}, {len(settings.devices)} worker(s))"]
    if settings.tls_port is not None:
        lines.append(f"https:  https://{where}:{settings.tls_port}")
    if settings.proxy_port is not None:
        lines.append(f"proxy:  http://{where}:{settings.proxy_port}")
    if first_key:
        lines += [f"key:    {first_key}", "        shown this once; to make others: sonolora keys add NAME"]
    else:
        lines.append(f"keys:   {keys}; see sonolora keys list, and sonolora keys add NAME for another")
    lines.append(f"folder: {settings.folder}")
    if settings.base == EMBEDDED_BASE:
        lines += [
            f"base:   {settings.base}, a small model to try things out with; its LoRAs do not fit LTX-2.3.",
            "        The real one: --base, see docs/base-models.md",
        ]
    bundle = settings.folder / "tls" / "bundle.pem"
    blocks = []
    if settings.proxy_port is not None:
        blocks.append(
            (
                "Python: any program that uses fal_client, unchanged, after these lines in the shell",
                examples.proxy_environment(f"http://{where}:{settings.proxy_port}", bundle, key),
            )
        )
    else:
        blocks.append(("Python: pip install fal-client", examples.python(address, key)))
    blocks += [
        ("JavaScript (node): save as train.mjs; npm install @fal-ai/client", examples.javascript(address, key)),
        ("curl", examples.curl(address, key)),
    ]
    for title, text in blocks:
        lines += ["", f"# {title}", text.rstrip()]  # not indented: Python would not take it
    return "\n".join(lines) + "\n"
