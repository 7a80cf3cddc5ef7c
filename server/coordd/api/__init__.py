"""The calls of docs/api.md, their descriptions among them."""
