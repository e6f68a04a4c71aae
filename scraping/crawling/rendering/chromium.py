"""Chromium: where it is on this machine, and how it is started so that nothing leaves it.

Every request of a page is answered by the crawl (`browser`). What a browser does beside that (looking up names,
connecting ahead of time, WebSockets, WebRTC, its own services) ends at a proxy that does not exist: all names, the
proxy's too, are made unknown to it, and connections to plain addresses go to the proxy as well.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from scraping.crawling.source import Source
from textmill.errors import UserError, first_line

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright

__all__ = ["check_browser", "find_chromium", "launch"]

logger = logging.getLogger(__name__)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LONGEST_TEMPORARY = 62  # bytes: sockets have names of 107, and "/org.chromium.Chromium.AbCdEf/SingletonSocket" takes 45
_FLAGS = [
    "--proxy-server=http://no-network.invalid:1",
    "--proxy-bypass-list=<-loopback>",  # loopback is not an exception
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",  # its older name
    "--disable-quic",
    "--disable-gpu",
    "--js-flags=--max-old-space-size=1024",  # megabytes of a page's scripts
]


def check_browser(source: Source) -> None:
    """Make sure, before any work, that a source whose pages are rendered finds what renders them.

    Raises:
        UserError: Playwright or Chromium is missing.
    """
    if source.fetch == "browser":
        try:
            find_chromium()
        except UserError as error:
            raise UserError(f"source {source.name}: {error}") from None


def find_chromium() -> str:
    """The path of the system's Chromium, or else of the one that Playwright has downloaded.

    Raises:
        UserError: Playwright or Chromium is missing, or Chromium cannot start with the temporary folder.
    """
    if importlib.util.find_spec("playwright") is None:
        raise UserError("`fetch: browser` needs a package that is missing: pip install 'textmill[browser]'")
    if len(os.fsencode(temporary := tempfile.gettempdir())) > LONGEST_TEMPORARY:
        raise UserError(
            f"Chromium cannot open its socket in the temporary folder {temporary}, whose name is too long: set TMPDIR "
            f"to one of at most {LONGEST_TEMPORARY} bytes"
        )
    if system := next(filter(None, map(shutil.which, _NAMES)), None):
        return system
    with ThreadPoolExecutor(1) as pool:  # Playwright refuses to start in a thread that runs an event loop
        own = pool.submit(_own_chromium).result()
    if not Path(own).is_file():
        raise UserError("`fetch: browser` finds no Chromium: apt-get install chromium, or playwright install chromium")
    return own


def _own_chromium() -> str:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


async def launch(playwright: Playwright, path: str) -> Browser:
    """Start Chromium, in its sandbox if this machine lets it have one.

    Raises:
        UserError: it does not start.
    """
    from playwright.async_api import Error

    is_root, problem = os.geteuid() == 0, ""
    for sandbox in (False,) if is_root else (True, False):
        if not sandbox:
            why = "root may not have one" if is_root else "it does not start with one here"
            logger.warning("Chromium runs without its sandbox (%s): render only sites that you trust", why)
        try:
            return await playwright.chromium.launch(
                executable_path=path, args=_FLAGS, chromium_sandbox=sandbox, handle_sigint=False, handle_sigterm=False
            )
        except Error as error:
            problem = first_line(error)
    raise UserError(f"{path} does not start ({problem}): try it by hand, `{path} --headless --dump-dom about:blank`")
