"""The engines behind the store port."""
