"""The libraries in the report page, fetched from npm again: `python -m tests.vendor_assets [--write]`

Compares every file with the SHA-256 in `bnfold/reporting/assets/manifest.json`, and the licence texts with those stored;
exits 1 where one differs. `--write` stores the files (the manifest states versions and hashes: edit it first).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "bnfold" / "reporting" / "assets"


def published(package: str, version: str, folder: Path) -> dict[str, bytes]:
    """The files of a package as npm has them, by their path in it."""
    command = ["npm", "pack", "--silent", f"{package}@{version}"]
    packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with tarfile.open(folder / packed) as archive:
        members = [member for member in archive if member.isfile()]
        return {m.name.removeprefix("package/"): archive.extractfile(m).read() for m in members}


def fetched(manifest: dict[str, dict[str, str]]) -> dict[str, bytes]:
    """What should be in the folder of assets, by path in it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, about in manifest.items():
            files = published(about["package"], about["version"], Path(folder))
            found[f"{name}.min.js"] = files[about["file"]]
            found[f"licenses/{name}.txt"] = files["LICENSE"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    manifest = json.loads((ASSETS / "manifest.json").read_text())
    files, wrong = fetched(manifest), []
    for name, about in manifest.items():
        digest = hashlib.sha256(files[f"{name}.min.js"]).hexdigest()
        wrong += [] if digest == about["sha256"] else [f"{about['package']} {about['version']}: SHA-256 {digest}"]
    for path, content in files.items():
        if write:
            (ASSETS / path).parent.mkdir(exist_ok=True)
            (ASSETS / path).write_bytes(content)
        elif (ASSETS / path).read_bytes() != content:
            wrong.append(f"{path} differs from what npm has")
    print("\n".join(wrong) or f"{len(files)} files are those that npm has")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
