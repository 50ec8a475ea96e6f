"""A folder of files that can prove to be whole: a manifest with the sha256 of each, named by its own sha256.

{"model.json": "1f0c…", "model.txt": "9ab2…"}        manifest.json
"""

import json
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> str:
    """Writes manifest.json, {file: sha256}, for all files in `directory`; returns the manifest's own sha256."""
    text = json.dumps(
        {name: sha256((directory / name).read_bytes()).hexdigest() for name in _files(directory)}, indent=1
    )
    write_atomically(directory / MANIFEST, text)
    return sha256(text.encode()).hexdigest()


def intact(directory: Path, digest: str) -> bool:
    """True if the folder holds exactly the bytes that `digest` stands for: no file more, less, or changed."""
    try:
        text = (directory / MANIFEST).read_bytes()
        if sha256(text).hexdigest() != digest:
            return False
        expected = json.loads(text)
        return _files(directory) == sorted(expected) and all(
            sha256((directory / name).read_bytes()).hexdigest() == expected[name] for name in expected
        )
    except OSError:
        return False


def _files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)


def write_atomically(path: Path, text: str) -> None:
    """Writes the file whole or not at all; of several writers at once the last one's stays.

    No two of them share a draft: processes in containers that share a folder have the same process ids.
    """
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        draft.write_text(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
