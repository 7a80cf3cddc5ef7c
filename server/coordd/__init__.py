"""coordd: the message server that agents talk to."""

__version__ = "0.1.0"
