"""A stand-in for ComfyUI, with its functions' names and its rules for the keys of LoRAs, for tests of the check."""
