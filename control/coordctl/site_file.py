"""site.yml: what the operator says of a site, and how it is changed without losing comments."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, model_validator

from coordctl import profile
from coordctl.checked import Strict, load
from coordctl.durable import write_file
from coordctl.errors import CoordctlError
from coordctl.profile import WANTED, Profile

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$"
MACHINE_NAME: Final = r"^[a-z][a-z0-9-]{0,30}$"
ADDRESS: Final = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$|^[0-9a-fA-F:]{2,45}$"


class Machine(Strict):
    """How a machine is reached over SSH. `key`: a private key's file, relative to the site."""

    address: Annotated[str, Field(pattern=ADDRESS)]
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] = 22
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    key: Annotated[str, Field(min_length=1)] | None = None


class Tls(Strict):
    """Certificates that the operator has: files, PEM, relative to the site."""

    certificate: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class Hooks(Strict):
    """Whom the server may tell of events: see docs/work.md. `allow`: hosts and networks."""

    allow: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,255}$")]] = Field(
        default_factory=list)
    tries: Annotated[int, Field(ge=1, le=100, strict=True)] | None = None


class Smtp(Strict):
    """The server that takes e-mail of hooks. `password`: a file, relative to the site."""

    host: Annotated[str, Field(pattern=ADDRESS)]
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    sender: Annotated[str, Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$", alias="from")]
    user: Annotated[str, Field(min_length=1)] | None = None
    password: Annotated[str, Field(min_length=1)] | None = None


class SiteFile(Strict):
    """What site.yml says."""

    name: Annotated[str, Field(pattern=NAME)]
    level: Literal["individual", "team", "organization", "enterprise"] = "individual"
    # For a site on this machine. No token is asked for there: who reaches the server may read
    # and write all of it.
    host: Annotated[str, Field(pattern=r"^(127(\.[0-9]{1,3}){3}|::1|localhost)$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] = 8000
    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")] | None = None
    machines: dict[Annotated[str, Field(pattern=MACHINE_NAME)], Machine] = Field(
        default_factory=dict)
    compact: bool = False
    stack: dict[str, Any] = Field(default_factory=dict)
    sizes: dict[str, Any] = Field(default_factory=dict)
    tls: Tls | None = None
    hooks: Hooks = Hooks()
    smtp: Smtp | None = None

    @model_validator(mode="after")
    def _agrees(self) -> SiteFile:
        seen: dict[tuple[str, int], str] = {}
        for name, machine in self.machines.items():
            place = (machine.address, machine.port)
            if place in seen:
                raise ValueError(f"machines.{name}.address is {machine.address!r}, which is that "
                                 f"of {seen[place]} too: a machine stands once")
            seen[place] = name
            if ":" in machine.address:
                try:
                    ipaddress.ip_address(machine.address)
                except ValueError:
                    raise ValueError(f"machines.{name}.address is {machine.address!r}: "
                                     f"{SITE_WANTED['address']}") from None
        return self


SITE_WANTED: Final[dict[str, str]] = WANTED | {
    "name": "1-50 of letters, digits, '.', '_', '-' will do",
    "level": "individual, team, organization or enterprise will do",
    "host": "an address of this machine alone, such as 127.0.0.1, will do",
    "port": "a whole number from 1 to 65535 will do",
    "domain": "the name under which agents reach the site, such as messages.example.org, will do",
    "machines": "a mapping such as {m1: {address: 192.0.2.7}} will do; names are of small letters, "
                "digits and '-'",
    "address": "an IP address or a host name will do",
    "user": "the login's name on the machine, such as root, will do",
    "key": "the file of a private key will do",
    "compact": "true or false will do",
    "stack": "a mapping such as {message_servers: 3} will do",
    "sizes": "a mapping such as {cache_memory_mb: 512} will do",
    "tls": "{certificate: FILE, key: FILE} will do",
    "hooks": "a mapping such as {allow: [hooks.slack.com, 10.1.0.0/16]} will do",
    "hooks.allow": "a list of host names and networks, such as [hooks.slack.com, 10.1.0.0/16], "
                   "will do",
    "hooks.tries": "a whole number from 1 to 100 will do",
    "smtp": "a mapping such as {host: mail.example.org, from: coordd@example.org} will do",
    "smtp.host": "a host's name or address will do",
    "smtp.tls": "starttls, tls or none will do",
    "smtp.from": "an address such as coordd@example.org will do",
    "smtp.user": "a user's name will do",
    "smtp.password": "the file of a password will do",
}


def read_site_file(file: Path) -> SiteFile:
    """What `file` says, its overrides checked against the level. Raises CoordctlError."""
    told = load(file, SiteFile, SITE_WANTED)
    profile_of(told, file)
    return told


def profile_of(told: SiteFile, file: Path, level: str | None = None) -> Profile:
    """The profile of the site's level, or of `level`, with the site's choices.

    Raises CoordctlError.
    """
    return profile.profile(level or told.level).with_overrides(
        told.stack, told.sizes, str(file), mend=f"edit {file}")


def new_text(name: str, level: str, machines: dict[str, Machine], port: int | None) -> str:
    """The text of a new site.yml."""
    fields: dict[str, Any] = {"name": name, "level": level}
    if not machines:
        fields |= {"host": "127.0.0.1", "port": port or 8000}
    return yaml.safe_dump(fields, sort_keys=False) + machines_text(machines)


def machines_text(machines: dict[str, Machine]) -> str:
    """The `machines` key as YAML, a machine a line; "" for none."""
    if not machines:
        return ""
    lines = [f"  {name}: " + yaml.safe_dump(
        machine.model_dump(exclude_defaults=True), default_flow_style=True, sort_keys=False,
        width=1000).strip() for name, machine in machines.items()]
    return "machines:\n" + "\n".join(lines) + "\n"


def set_scalar(text: str, key: str, value: str | int) -> str:
    """`text` with another value of a key at its top; the rest stays as it is."""
    line = f"{key}: {value}"
    changed, count = re.subn(rf"(?m)^{key}\s*:.*$", lambda _: line, text)
    return changed if count else f"{text.rstrip()}\n{key}: {value}\n"


def set_choice(text: str, key: str, value: str | int) -> str:
    """`text` with another choice under `stack`; the rest stays as it is."""
    head = re.search(r"(?m)^stack\s*:[ \t]*(\{.*\})?[ \t]*(#.*)?$", text)
    if head is None:
        return f"{text.rstrip()}\nstack:\n  {key}: {value}\n"
    if head[1] is not None:  # in one line
        told = yaml.safe_load(head[1]) | {key: value}
        line = yaml.safe_dump(told, default_flow_style=True, sort_keys=False, width=1000).strip()
        return text[:head.start(1)] + line + text[head.end(1):]
    block = re.compile(r"(?:\n(?:[ \t]+.*|[ \t]*#.*|[ \t]*))*").match(text, head.end())
    inner = block[0] if block else ""
    changed, count = re.subn(rf"(?m)^([ \t]+{key}\s*:).*$", rf"\g<1> {value}", inner)
    if not count:
        indent = re.search(r"\n([ \t]+)[^\s#]", inner)
        changed = f"\n{indent[1] if indent else '  '}{key}: {value}{inner}"
    return text[:head.end()] + changed + text[head.end() + len(inner):]


def set_machines(text: str, machines: dict[str, Machine]) -> str:
    """`text` with other machines; the rest stays as it is."""
    without = re.sub(r"(?m)^machines\s*:.*\n(?:(?:[ \t]+.*|)\n)*", "", f"{text.rstrip()}\n")
    return f"{without.rstrip()}\n{machines_text(machines)}"


def rewrite(file: Path, text: str) -> None:
    """Write another text of site.yml, unless it would be wrong. Raises CoordctlError, OSError."""
    beside = file.with_name(f".{file.name}.new")
    write_file(beside, text)
    try:
        read_site_file(beside)
    except CoordctlError as error:
        raise CoordctlError(str(error).replace(str(beside), str(file)), mend=error.mend.replace(
            str(beside), str(file))) from None
    finally:
        beside.unlink(missing_ok=True)
    write_file(file, text)
