"""HTTP without the API: requests, routes, the protocol on the socket and the ASGI application."""
