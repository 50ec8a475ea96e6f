"""A folder of files that can prove to be whole: a manifest with the sha256 of each, named by its own sha256.

{"model.json": "1f0c…", "model.txt": "9ab2…"}        manifest.json
"""

import json
import os
from hashlib import sha256
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> str:
    """Writes manifest.json, {file: sha256}, for all files in `directory`; returns the manifest's own sha256."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    text = json.dumps({str(p.relative_to(directory)): sha256(p.read_bytes()).hexdigest() for p in files}, indent=1)
    write_atomically(directory / MANIFEST, text)
    return sha256(text.encode()).hexdigest()


def intact(directory: Path, digest: str) -> bool:
    """True if the folder holds exactly the bytes that `digest` stands for."""
    try:
        text = (directory / MANIFEST).read_bytes()
        return sha256(text).hexdigest() == digest and all(
            sha256((directory / name).read_bytes()).hexdigest() == expected
            for name, expected in json.loads(text).items()
        )
    except OSError:
        return False


def write_atomically(path: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
