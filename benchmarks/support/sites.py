"""Documentation sites to measure on: the HTML pages of Debian packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

SITES = ["postgresql-doc-15", "python3.11-doc"]  # pages of 14 kB and of 96 kB


def site_folder(package: str, temporary: Path) -> Path:
    """The folder of the package's pages: the system's copy, or one from its archive, unpacked below `temporary`."""
    installed = Path("/usr/share/doc") / package / "html"
    if (installed / "index.html").exists():
        return installed.resolve()
    try:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=temporary, check=True, capture_output=True)
        [archive] = temporary.glob("*.deb")
        subprocess.run(["dpkg", "-x", archive, temporary / "root"], check=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise SystemExit(
            f"{package} is neither installed nor to be had: apt-get install {package} ({error})"
        ) from error
    return (temporary / "root" / installed.relative_to("/")).resolve()
