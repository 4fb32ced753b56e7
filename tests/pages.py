"""Structure of a report's page, and what must hold for all of them."""

import re
from html.parser import HTMLParser

VOID = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """Ids, links, headings, images and the nesting of a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.headings, self.images, self.open, self.faults = [], [], [], [], [], []
        self.labelled, self.sources = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag in ("a", "use") and "href" in attrs:
            self.links.append(attrs["href"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img" or attrs.get("role") == "img":
            self.images.append(attrs)
        self.labelled += (attrs.get("aria-labelledby") or "").split()
        loaded = ("src", "xlink:href") if tag == "a" else ("src", "href", "xlink:href")  # a link loads nothing
        self.sources += [attrs[k] for k in loaded if k in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def check_page(html):
    """What must hold for every report."""
    page = Page(html)
    assert not page.faults and not page.open, f"tags do not match: {page.faults or page.open}"
    doubled = {i for i in page.ids if page.ids.count(i) > 1}
    assert not doubled, f"ids used twice: {doubled}"
    # links without "#" lead to files of the study beside the page
    dead = [k for k in page.links if (k[1:] not in page.ids if k.startswith("#") else re.match(r"/|\w+:", k))]
    assert not dead, f"dead links: {dead}"
    assert set(page.labelled) <= set(page.ids)
    assert all(i.get("alt") or i.get("aria-label") for i in page.images), "an image without a text in its place"
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:])), "a level of heading is left out"
    outside = [s for s in page.sources if not s.startswith(("#", "data:"))]
    assert not outside, f"loaded from elsewhere: {outside}"
    assert not re.search(r"@import|url\((?!#|[\"']?data:)|<script[^>]+src|<link[^>]+stylesheet", html)
    assert html.startswith("<!DOCTYPE html>") and '<html lang="en">' in html and 'name="viewport"' in html
    return page
