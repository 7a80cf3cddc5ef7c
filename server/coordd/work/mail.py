"""One message of e-mail to a hook's address."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import NamedTuple

from coordd.credentials import check_certificates, read_password
from coordd.settings import Settings, SettingsError
from coordd.work.model import Hook, Occurrence
from coordd.work.webhook import CallError


class Mailer(NamedTuple):
    """A server that takes mail, and who we are to it."""

    host: str
    port: int
    tls: str
    sender: str
    user: str | None
    password: str | None
    ca_file: str | None


def mailer_of(settings: Settings) -> Mailer | None:
    """The one of the settings, None where there is none. Raises SettingsError."""
    if settings.smtp_host is None:
        return None
    if settings.smtp_from is None:
        raise SettingsError("smtp_host without smtp_from: set the address that e-mail is from")
    password = ca_file = None
    if settings.smtp_password_file is not None:
        password = read_password("smtp_password_file", settings.smtp_password_file)
    if settings.smtp_ca_file is not None:
        check_certificates("smtp_ca_file", settings.smtp_ca_file)
        ca_file = str(settings.smtp_ca_file)
    return Mailer(settings.smtp_host, settings.smtp_port, settings.smtp_tls, settings.smtp_from,
                  settings.smtp_user, password, ca_file)


def send(mailer: Mailer | None, hook: Hook, found: Occurrence, timeout_s: float) -> None:
    """Tell an address. Raises CallError."""
    if mailer is None:
        raise CallError("the settings have no smtp_host")
    try:
        with _session(mailer, timeout_s) as session:
            if mailer.user is not None and mailer.password is not None:
                session.login(mailer.user, mailer.password)
            session.send_message(message_of(mailer.sender, hook.target, found))
    except smtplib.SMTPResponseException as error:
        raise CallError(f"{mailer.host} answered {error.smtp_code}") from error
    except smtplib.SMTPRecipientsRefused as error:
        codes = ", ".join(str(code) for code, _ in error.recipients.values())
        raise CallError(f"{mailer.host} refuses the recipient ({codes})") from error
    except smtplib.SMTPException as error:
        raise CallError(f"{mailer.host}: {type(error).__name__}") from error
    except ssl.SSLCertVerificationError as error:
        raise CallError(f"the certificate of {mailer.host} will not do: {error.verify_message}"
                        ) from error
    except OSError as error:
        raise CallError(f"{mailer.host} can't be reached: {error.strerror or error}") from error


def _session(mailer: Mailer, timeout_s: float) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=mailer.ca_file)
    if mailer.tls == "tls":
        return smtplib.SMTP_SSL(mailer.host, mailer.port, timeout=timeout_s, context=context)
    session = smtplib.SMTP(mailer.host, mailer.port, timeout=timeout_s)
    if mailer.tls == "starttls":
        try:
            session.starttls(context=context)
        except BaseException:
            session.close()
            raise
    return session


def message_of(sender: str, to: str, found: Occurrence) -> EmailMessage:
    """What is sent. The same event has the same Message-ID, whenever it is sent."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Date"] = formatdate(localtime=False)
    message["Message-ID"] = f"<{found.id}@{sender.rpartition('@')[2]}>"
    message["Subject"] = f"[{found.to_agent}] {' '.join(found.subject.split())}"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"{found.type} {found.timestamp}\n\nFrom: {found.from_agent}\nTo: {found.to_agent}\n"
        f"Priority: {found.priority}\nSubject: {found.subject}\nMessage: {found.message_id}\n")
    return message
