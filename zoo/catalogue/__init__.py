"""Kept agents: found by name, saved, imported, verified, and exchanged with the Hugging Face Hub."""
