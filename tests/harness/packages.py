"""Python packages for the drivers, kept outside the checkout. Installed once; a second call costs nothing."""

import os
import shutil
import subprocess
import sys

from cluster import cache_dir


def venv(name, *requirements):
    """The interpreter of an environment that holds these packages."""
    folder = cache_dir("clients", name)
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    wanted = "\n".join([sys.version, *requirements])
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(folder)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted)
    return str(python)


def run_in(name, *requirements):
    """Goes on in that environment: returns when this is its interpreter, else replaces the process."""
    python = venv(name, *requirements)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(python))):
        os.execv(python, [python, *sys.argv])


def locked_node_modules(source, folder):
    """Installs into `folder` exactly what the `package.json` and `package-lock.json` of `source` name."""
    stamp = folder / "installed"
    wanted = (source / "package-lock.json").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    for file in ("package.json", "package-lock.json"):
        shutil.copy(source / file, folder)
    # Not `npm ci`, which wants optional packages of foreign machines in the lock file too.
    subprocess.run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
    stamp.write_text(wanted)
