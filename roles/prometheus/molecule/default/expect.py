"""expect.py METRIC=COUNT … | ALERT=MACHINE …: what Prometheus on this machine must know.

With metrics: each has so many series, all targets are up, and no alert is pending or firing. With
alerts: these fire, and no others. The scenario's certificates are of a day, so that their alert is
told all the time. Ends with 1 and a line where it is not so.
"""

import json
import sys
import urllib.parse
import urllib.request

WANTED = dict(word.split("=") for word in sys.argv[1:])


def ask(path):
    url = f"http://127.0.0.1:9090/api/v1/{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.loads(opener.open(url, timeout=5).read())["data"]


alerts = {(each["labels"]["alertname"], each["labels"].get("machine"), each["state"])
          for each in ask("alerts")["alerts"]}
expiring = {each for each in alerts if each[0] == "CertificateExpires"}
if not expiring:
    sys.exit("no certificate expires")
alerts -= expiring
if any(value.isdigit() for value in WANTED.values()):
    away = [f"{each['labels']}: {each['lastError']}"
            for each in ask("targets?state=active")["activeTargets"] if each["health"] != "up"]
    if away:
        sys.exit(f"not up: {away}")
    if alerts:
        sys.exit(f"alerts: {alerts}")
    for name, count in WANTED.items():
        found = len(ask(f"query?query={urllib.parse.quote(name)}")["result"])
        if found != int(count):
            sys.exit(f"{name}: {found} series, wanted {count}")
else:
    wanted = {(name, machine, "firing") for name, machine in WANTED.items()}
    if alerts != wanted:
        sys.exit(f"{alerts}, wanted {wanted}")
