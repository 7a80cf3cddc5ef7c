"""Backups of a running server: its feed of changes in a file, proved by a restore.

Through the API, so that it is the same for every engine, and at one position of the feed.
"""
