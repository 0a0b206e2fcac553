"""Writes container images without a container engine: layers, a configuration and a manifest in one docker archive, which
Docker, Podman and containerd all import. Reads no registry and starts no program.

The same input gives the same bytes, so that an image's digest says what is in it: entries are sorted, belong to root and
bear one time, and nothing names the machine. Layers are not compressed: whoever pushes an image compresses it anyway, and
a test wants it quickly.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

# The time of every entry, in seconds since 1970.
TIME_S = 0
TIME = "1970-01-01T00:00:00Z"
# The one way to write a tar file that all importers read and that has room for long names.
FORMAT = tarfile.GNU_FORMAT


@dataclass(frozen=True)
class Folder:
    mode: int = 0o755


@dataclass(frozen=True)
class File:
    content: bytes | Path
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    target: str


# Where in the image (without the first slash) -> what.
Entries = dict[str, Folder | File | Link]


@dataclass(frozen=True)
class Layer:
    # Or a tar file that `write_layer` wrote.
    content: Entries | Path
    # Shown by `docker history`.
    comment: str


@dataclass(frozen=True)
class Image:
    reference: str
    architecture: str
    layers: list[Layer]
    entrypoint: list[str]
    user: str
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def write_image(image: Image, out: BinaryIO) -> None:
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(fileobj=out, mode="w", format=FORMAT) as archive:
        digests = []
        for number, layer in enumerate(image.layers):
            path = layer.content
            if not isinstance(path, Path):
                path = Path(scratch, str(number))
                with path.open("wb") as file:
                    write_layer(layer.content, file)
            digests.append(digest_of(path))
            _add(archive, f"{digests[-1]}.tar", File(path))
        configuration = _json(_configuration(image, digests))
        configuration_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
        _add(archive, configuration_name, File(configuration))
        manifest = {"Config": configuration_name, "RepoTags": [image.reference], "Layers": [f"{digest}.tar" for digest in digests]}
        _add(archive, "manifest.json", File(_json([manifest])))


def write_layer(entries: Entries, out: BinaryIO) -> None:
    with tarfile.open(fileobj=out, mode="w", format=FORMAT) as layer:
        for path, entry in sorted(with_parents(entries).items()):
            _add(layer, path, entry)


def with_parents(entries: Entries) -> Entries:
    """Adds the folders that hold an entry. A layer whose folders are left to the importer gets modes of its choice."""
    parents = {str(parent): Folder() for path in entries for parent in PurePosixPath(path).parents if str(parent) != "."}
    return parents | entries


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _configuration(image: Image, digests: list[str]) -> dict:
    return {
        "architecture": image.architecture,
        "os": "linux",
        "created": TIME,
        "config": {
            "User": image.user,
            "Env": [f"{name}={value}" for name, value in image.environment.items()],
            "Entrypoint": image.entrypoint,
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": TIME, "created_by": layer.comment} for layer in image.layers],
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, path: str, entry: Folder | File | Link) -> None:
    header = tarfile.TarInfo(path)
    header.mtime = TIME_S
    match entry:
        case Folder(mode):
            header.type, header.mode = tarfile.DIRTYPE, mode
            archive.addfile(header)
        case Link(target):
            header.type, header.mode, header.linkname = tarfile.SYMTYPE, 0o777, target
            archive.addfile(header)
        case File(bytes() as content, mode):
            header.size, header.mode = len(content), mode
            archive.addfile(header, io.BytesIO(content))
        case File(Path() as source, mode):
            with source.open("rb") as content:
                header.size, header.mode = source.stat().st_size, mode
                archive.addfile(header, content)
