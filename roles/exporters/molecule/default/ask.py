"""ask.py ADDRESS MODULE=METRIC …: asks a machine's door as Prometheus does, and as others would.

The folder /root/tls holds ca.pem, mine.pem and other.pem (certificate and key). Ends with 1 and a
line at the first answer that is not as promised.
"""

import ssl
import sys
import urllib.error
import urllib.request

ADDRESS, WANTED = sys.argv[1], [word.split("=", 1) for word in sys.argv[2:]]
TLS = "/root/tls"


def ask(path, certificate=f"{TLS}/mine.pem", scheme="https"):
    """What is answered; raises OSError."""
    trusted = ssl.create_default_context(cafile=f"{TLS}/ca.pem")
    if certificate:
        trusted.load_cert_chain(certificate)
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)]
    url = f"{scheme}://{ADDRESS}:9999{path}"
    return urllib.request.build_opener(*handlers).open(url, timeout=10).read().decode()


for module, metric in WANTED:
    lines = ask(f"/proxy?module={module}").splitlines()
    name, _, value = metric.partition(":")
    found = [line for line in lines if line.startswith(name)]
    if not found:
        sys.exit(f"{module}: {name} is not among {len(lines)} lines")
    if value and found[0].split()[-1] != value:
        sys.exit(f"{module}: {found[0]}, wanted {value}")

for what, refused in {
    "no certificate": lambda: ask("/proxy?module=node", certificate=None),
    "another machine's certificate": lambda: ask("/proxy?module=node", f"{TLS}/other.pem"),
    "no TLS": lambda: ask("/proxy?module=node", scheme="http"),
    "a module that is not there": lambda: ask("/proxy?module=shell"),
}.items():
    try:
        refused()
    except (OSError, urllib.error.HTTPError):
        continue
    sys.exit(f"{what}: was answered")
