"""A small site that is in good order, for previews and declarations."""

import pytest


@pytest.fixture
def prose() -> str:
    """Text that is a page's own."""
    return "This sentence belongs to the page itself and says something that no other page says. " * 5


@pytest.fixture
def sound_site(site, answer, prose):
    def document(name: str, *links: str) -> str:
        anchors = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
        return (
            f"<!DOCTYPE html><html><head><title>{name} - Example</title></head><body><nav><ul>{anchors}</ul></nav>"
            f"<main><h1>{name}</h1><p>{name}: {prose}</p></main><footer>All rights reserved</footer></body></html>"
        )

    site.routes["/robots.txt"] = answer(f"User-agent: *\nDisallow: /private\nSitemap: {site.url('/map.xml')}")
    site.routes["/map.xml"] = answer(f"<urlset><url><loc>{site.url('/one')}</loc></url></urlset>")
    site.routes["/"] = document(
        "Start", "/one", "/two", "/private", "http://elsewhere.example/", "/search?q=x", "/paper.pdf", "/three?print=1"
    )
    site.routes["/one"] = document("One", "/")
    site.routes["/two"] = document("Two", "/three")
    site.routes["/three"] = document("Three")
    site.routes["/search"] = document("Search")
    return site
