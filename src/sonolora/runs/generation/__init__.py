"""`sonolora generate`: sounds from a base and LoRAs."""
