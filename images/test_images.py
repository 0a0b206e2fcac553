"""`python3 -m unittest discover --start-directory images`"""

import hashlib
import io
import json
import tarfile
import tempfile
import unittest
from pathlib import Path

from archive import Entries, File, Folder, Image, Layer, Link, write_image, write_layer
from rootfs import kept

ENTRIES: Entries = {"usr/bin/tool": File(b"program", 0o755), "bin/tool": Link("../usr/bin/tool"), "tmp": Folder(0o1777)}


def image(*layers: Layer) -> Image:
    return Image("localhost/trireme/engine:1", "amd64", list(layers), ["/usr/bin/tool"], "65532:65532", {"PATH": "/usr/bin"}, {"a": "b"})


def written(*layers: Layer) -> bytes:
    out = io.BytesIO()
    write_image(image(*layers), out)
    return out.getvalue()


def layer_of(entries: Entries) -> tarfile.TarFile:
    out = io.BytesIO()
    write_layer(entries, out)
    return tarfile.open(fileobj=io.BytesIO(out.getvalue()))


class ArchiveTest(unittest.TestCase):
    def test_manifest_names_configuration_and_layers_by_their_digests(self):
        archive = tarfile.open(fileobj=io.BytesIO(written(Layer(ENTRIES, "one"), Layer({"etc/name": File(b"x")}, "two"))))
        [manifest] = json.load(archive.extractfile("manifest.json"))
        self.assertEqual(manifest["RepoTags"], ["localhost/trireme/engine:1"])
        configuration = archive.extractfile(manifest["Config"]).read()
        self.assertEqual(manifest["Config"], hashlib.sha256(configuration).hexdigest() + ".json")
        digests = [hashlib.sha256(archive.extractfile(layer).read()).hexdigest() for layer in manifest["Layers"]]
        self.assertEqual(manifest["Layers"], [f"{digest}.tar" for digest in digests])
        self.assertEqual(json.loads(configuration)["rootfs"]["diff_ids"], [f"sha256:{digest}" for digest in digests])
        self.assertEqual(json.loads(configuration)["config"]["User"], "65532:65532")

    def test_same_input_gives_same_bytes(self):
        turned = dict(reversed(ENTRIES.items()))
        self.assertEqual(written(Layer(ENTRIES, "one")), written(Layer(turned, "one")))

    def test_a_layer_written_before_is_taken_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "layer.tar")
            with path.open("wb") as file:
                write_layer(ENTRIES, file)
            self.assertEqual(written(Layer(path, "one")), written(Layer(ENTRIES, "one")))

    def test_folders_come_before_what_is_in_them_and_all_belongs_to_root(self):
        members = layer_of(ENTRIES).getmembers()
        self.assertEqual([member.name for member in members], ["bin", "bin/tool", "tmp", "usr", "usr/bin", "usr/bin/tool"])
        self.assertEqual({(member.uid, member.gid, member.mtime) for member in members}, {(0, 0, 0)})
        self.assertEqual({member.name: member.mode for member in members if not member.issym()},
                         {"bin": 0o755, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/bin/tool": 0o755})  # fmt: skip


class RootfsTest(unittest.TestCase):
    def test_keeps_libraries_certificates_and_time_zones_and_nothing_to_run(self):
        packages: Entries = {
            "lib/x86_64-linux-gnu/libc.so.6": File(b"libc", 0o755),
            "lib64/ld-linux-x86-64.so.2": Link("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
            "usr/lib/x86_64-linux-gnu/libssl.so.3": File(b"ssl"),
            "usr/bin/openssl": File(b"openssl", 0o755),
            "usr/share/ca-certificates/mozilla/B.crt": File(b"second\n"),
            "usr/share/ca-certificates/mozilla/A.crt": File(b"first\n"),
            "usr/share/zoneinfo/Europe/Berlin": File(b"zone"),
            "usr/share/zoneinfo/right/Europe/Berlin": File(b"zone with leap seconds"),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "packages.tar")
            with path.open("wb") as file:
                write_layer(packages, file)
            entries = kept(path)
        self.assertEqual(entries["etc/ssl/certs/ca-certificates.crt"], File(b"first\nsecond\n"))
        self.assertEqual(entries["tmp"], Folder(0o1777))
        self.assertEqual(
            {path for path in entries if path.split("/")[0] not in ("etc", "tmp")},
            {"lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2", "usr/share/zoneinfo/Europe/Berlin"},
        )


if __name__ == "__main__":
    unittest.main()
