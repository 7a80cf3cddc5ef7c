"""Messages in Postgres: one order of commits for all servers, see schema/0001_store.sql."""

from coordd.engines.postgres.store import PostgresOptions, PostgresStore

__all__ = ["PostgresOptions", "PostgresStore"]
