"""The bench: `python -m bench` loads a coordd of its own and compares it with its limits."""
