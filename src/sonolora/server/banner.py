"""What `sonolora serve` prints at its start: its address, its key, and examples to paste.

In: the settings with the ports in use, and the key if it was just made. Out: text for a terminal.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sonolora import __version__
from sonolora.server import client_examples as examples
from sonolora.server.net.urls import own_address
from sonolora.server.settings import EMBEDDED_BASE, ServerSettings

_NO_KEY = "YOUR_KEY"


def banner(
    settings: ServerSettings,
    first_key: str | None,
    keys: int,
    ticket: str | None = None,
    *,
    with_examples: bool = False,
) -> str:
    """`keys` is how many are valid; only their hashes are known, so they cannot be shown again.

    `ticket` begins one session in a browser without a key. Page and key come last, where the eye is.
    """
    address, key = own_address(settings), first_key or _NO_KEY
    host = urlsplit(address).hostname or settings.host
    host = f"[{host}]" if ":" in host else host
    lines = [f"Sonolora {__version__} serves at {address}  (base {settings.base}, {len(settings.devices)} worker(s))"]
    if settings.tls_port is not None:
        lines.append(f"https:  https://{host}:{settings.tls_port}")
    if settings.proxy_port is not None:
        lines.append(f"proxy:  http://{host}:{settings.proxy_port}")
    lines.append(f"folder: {settings.folder}")
    if settings.base == EMBEDDED_BASE:
        lines += [
            f"base:   {settings.base}, a small model for trying things out; its LoRAs do not fit LTX-2.3.",
            "        For the real model see --base and docs/base-models.md",
        ]
    if with_examples:
        lines += _examples(settings, address, key, host)
    else:
        lines.append("examples for Python, JavaScript and curl: sonolora serve --examples, or docs/server.md")
    if ticket is not None:
        lines += [f"page:   {address}/?ticket={ticket}", "        logs one browser in, once and within an hour"]
    else:
        lines.append(f"page:   {address}/  (log in with a key)")
    if first_key:
        lines += [f"key:    {first_key}", "        shown this once; make others with: sonolora keys add NAME"]
    else:
        lines.append(f"keys:   {keys}; see sonolora keys list, and sonolora keys add NAME for another")
    return "\n".join(lines) + "\n"


def _examples(settings: ServerSettings, address: str, key: str, host: str) -> list[str]:
    """Lines to paste, for each client."""
    bundle = settings.folder / "tls" / "bundle.pem"
    blocks = []
    if settings.proxy_port is not None:
        blocks.append(
            (
                "Python: any program that uses fal_client, unchanged, after these lines in the shell",
                examples.proxy_environment(f"http://{host}:{settings.proxy_port}", bundle, key),
            )
        )
    else:
        blocks.append(("Python: pip install fal-client", examples.python(address, key)))
    blocks += [
        ("JavaScript (node): save as train.mjs; npm install @fal-ai/client", examples.javascript(address, key)),
        ("curl", examples.curl(address, key)),
    ]
    # Not indented: Python would reject it.
    return [line for title, text in blocks for line in ("", f"# {title}", text.rstrip())] + [""]
