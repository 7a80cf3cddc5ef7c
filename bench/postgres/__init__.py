"""The bench of engine postgres: one machine of the lab with Postgres and pgbouncer, the servers and
the driver on this computer.
"""
