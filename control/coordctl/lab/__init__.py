"""The lab: machines on this computer, containers that boot systemd and are reached over SSH."""
