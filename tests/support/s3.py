"""An S3-speaking server on a machine of the lab: moto, which checks keys and signatures. It is of
Debian's archive, as all else there.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Final

from .database import DatabaseMachine

PORT: Final = 5000
REGION: Final = "eu-central-1"
BUCKET: Final = "messages"
LIMIT_S: Final = 60.0
# The first calls are not checked: they make the user whose calls are.
_INSTALL: Final = f"""\
set -eu
export DEBIAN_FRONTEND=noninteractive
packages() {{
  apt-get install -qy --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \\
    python3-moto python3-flask-cors >/dev/null
}}
packages || {{ apt-get update -q >/dev/null && packages; }}
systemd-run --quiet --unit=s3 --setenv=INITIAL_NO_AUTH_ACTION_COUNT=4 \\
  python3 -m moto.server -H 0.0.0.0 -p {PORT}
"""
_SETUP: Final = f"""\
python3 - <<'END'
import boto3, json
def client(kind):
    return boto3.client(kind, endpoint_url="http://127.0.0.1:{PORT}", region_name="{REGION}",
                        aws_access_key_id="none", aws_secret_access_key="none")
client("s3").create_bucket(Bucket="{BUCKET}",
                           CreateBucketConfiguration={{"LocationConstraint": "{REGION}"}})
iam = client("iam")
iam.create_user(UserName="coordd")
iam.put_user_policy(UserName="coordd", PolicyName="files", PolicyDocument=json.dumps(
    {{"Version": "2012-10-17", "Statement": [
        {{"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": "*"}}]}}))
key = iam.create_access_key(UserName="coordd")["AccessKey"]
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
END
"""


class S3Server:
    """On that machine until its end. `keys`: of the one user that may write and read objects."""

    def __init__(self, machine: DatabaseMachine) -> None:
        self.endpoint = f"http://{machine.address}:{PORT}"
        machine.lab.on("m1", "sh -s", given=_INSTALL)
        self._await()
        key, secret = json.loads(machine.lab.on("m1", "sh -s", given=_SETUP))
        self.keys: tuple[str, str] = (key, secret)

    def _await(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not self._answers():
            assert time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
