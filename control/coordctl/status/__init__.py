"""How a site fares: asked of all machines at once, computed, and shown."""
