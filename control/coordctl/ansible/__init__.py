"""Ansible as a subprocess: run, followed event by event, shown, resumed."""
