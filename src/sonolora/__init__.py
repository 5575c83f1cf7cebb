"""Sonolora teaches LTX-2.3 new sounds: it trains audio LoRAs on the user's own hardware."""

__version__ = "0.1.0"
