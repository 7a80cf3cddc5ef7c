"""coordctl: the operator's tool. It knows the server by its HTTP API and its settings file."""
