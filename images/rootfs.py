"""The root file system below the binary in the images of engine and operator: what a dynamically linked program needs to
start, to trust a server's certificate and to know a time zone, taken from Debian's packages, and nothing that could be run:
no shell, no package manager.

Packages come from the Debian release that this machine runs, because the binary was linked with that release's libc, and an
older one would refuse it. `TRIREME_IMAGE_SUITE` names another release.
"""

import os
import platform
import re
import subprocess
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from archive import Entries, File, Folder, Link, digest_of, write_layer

# 65532 is the "nonroot" of the distroless images, which policies in clusters know.
USER_ID = 65532

PACKAGES = ["base-files", "ca-certificates", "libc6", "libgcc-s1", "tzdata"]

# What is kept of the packages and of what they depend on. An asterisk matches slashes too.
LIBRARIES = ["ld-linux*", "libc.so.*", "libdl.so.*", "libgcc_s.so.*", "libm.so.*", "libmvec.so.*", "libnss_dns.so.*"]
LIBRARIES += ["libnss_files.so.*", "libpthread.so.*", "libresolv.so.*", "librt.so.*"]
KEPT = ["etc/debian_version", "etc/os-release", "usr/lib/os-release", "lib", "lib64", "usr/lib64", "var/lib/dpkg/status.d/*"]
KEPT += [f"lib*/{library}" for library in LIBRARIES] + [f"usr/lib*/{library}" for library in LIBRARIES]
KEPT += [f"usr/share/doc/{package}/copyright" for package in [*PACKAGES, "gcc-*-base"]]
KEPT += ["usr/share/zoneinfo/*"]
# The same time zones twice more, with and without leap seconds.
LEFT_OUT = ["usr/share/zoneinfo/posix/*", "usr/share/zoneinfo/right/*"]

CERTIFICATES = "usr/share/ca-certificates/*.crt"
CERTIFICATES_JOINED = "etc/ssl/certs/ca-certificates.crt"

# Names for the user, and /etc/hosts before DNS: without a word about it, libc asks DNS first.
WRITTEN: Entries = {
    "etc/passwd": File(f"root:x:0:0:root:/root:/sbin/nologin\ntrireme:x:{USER_ID}:{USER_ID}::/tmp:/sbin/nologin\n".encode()),
    "etc/group": File(f"root:x:0:\ntrireme:x:{USER_ID}:\n".encode()),
    "etc/nsswitch.conf": File(b"passwd: files\ngroup: files\nhosts: files dns\n"),
    "tmp": Folder(0o1777),
}

# Scanners find the packages of an image without a package manager by the files in this folder, one for each package.
RECORD_PACKAGES = f"""mkdir -p "$1/var/lib/dpkg/status.d"
for package in {" ".join(PACKAGES)}; do
    dpkg-deb --field "$1"/var/cache/apt/archives/"$package"_*.deb >"$1/var/lib/dpkg/status.d/$package"
done"""


def cached_rootfs(cache: Path) -> Path:
    """The root file system as a tar file. Made once: the name carries the release and all that this module says. Delete
    it to get the release's newest packages."""
    made = cache / f"rootfs-{suite()}-{digest_of(Path(__file__))[:12]}.tar"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            part = Path(scratch, "part.tar")
            write_rootfs(part)
            part.rename(made)  # two builds at once both make it; either is whole
    return made


def write_rootfs(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch, "packages.tar")
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
        command += [f"--extract-hook={RECORD_PACKAGES}", suite(), str(packages)]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise SystemExit("images: mmdebstrap is missing: apt-get install mmdebstrap") from None
        with out.open("wb") as file:
            write_layer(kept(packages), file)


def suite() -> str:
    if chosen := os.environ.get("TRIREME_IMAGE_SUITE"):
        return chosen
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise SystemExit("images: this is not Debian: set TRIREME_IMAGE_SUITE to a release whose libc is not older than this machine's")
    return release["VERSION_CODENAME"]


def kept(packages: Path) -> Entries:
    entries = dict(WRITTEN)
    certificates = []
    with tarfile.open(packages) as archive:
        for member in sorted(archive, key=lambda member: member.name):
            path = member.name.removeprefix("./")
            if member.issym() and is_kept(path):
                entries[path] = Link(member.linkname)
            elif (member.isfile() or member.islnk()) and is_kept(path):
                entries[path] = File(archive.extractfile(member).read(), member.mode)
            elif member.isfile() and fnmatch(path, CERTIFICATES):
                certificates.append(archive.extractfile(member).read())
    entries[CERTIFICATES_JOINED] = File(b"".join(certificates))
    return entries


def is_kept(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in KEPT) and not any(fnmatch(path, pattern) for pattern in LEFT_OUT)


def packages_of(rootfs: Path) -> str:
    """Names and versions, for the image's label."""
    with tarfile.open(rootfs) as archive:
        records = [archive.extractfile(f"var/lib/dpkg/status.d/{package}").read().decode() for package in PACKAGES]
    versions = [re.search(r"^Version: (.*)$", record, re.MULTILINE)[1] for record in records]
    return " ".join(f"{package}={version}" for package, version in zip(PACKAGES, versions))
