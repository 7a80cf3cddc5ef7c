"""releases.py FOLDER: write FOLDER/releases.yml, the variables of a release, and of a broken one.

The broken one is the same, but that its server ends with exit code 1 when it is started; it checks
settings as the whole one does.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

from coordctl import release

BREAK = """
import sys
if "--check" not in sys.argv:
    sys.exit("coordd: broken on purpose")
"""


def broken_wheel(wheel: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel)) as whole, zipfile.ZipFile(out, "w") as broken:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "coordd/__main__.py":
                content = content.replace(b"\nimport argparse\n", BREAK.encode() +
                                          b"import argparse\n")
                assert BREAK.encode() in content
            broken.writestr(name, content)
    return out.getvalue()


def break_release(whole: Path, broken: Path) -> None:
    broken.mkdir(parents=True, exist_ok=True)
    with (tarfile.open(whole / release.ARCHIVE) as old,
          tarfile.open(broken / release.ARCHIVE, "w") as new):
        files = {entry.name: old.extractfile(entry).read() for entry in old}  # type: ignore[union-attr]
        for name in [name for name in files if name.startswith("coordctl-")]:
            wheel = broken_wheel(files[name])
            files["requirements.txt"] = files["requirements.txt"].replace(
                hashlib.sha256(files[name]).hexdigest().encode(),
                hashlib.sha256(wheel).hexdigest().encode())
            files[name] = wheel
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))


def main(folder: Path) -> None:
    whole = release.build("3.13", "x86_64")
    break_release(whole.folder, folder / "broken")
    (folder / "releases.yml").write_text(
        f"coordd_release: {whole.id}\ncoordd_wheelhouse: {whole.folder}\n"
        f"broken_wheelhouse: {folder / 'broken'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
