"""Pages as tests read them: whole, without anything from elsewhere, the pages in their frames too."""
from __future__ import annotations

import html.parser
import json
import re


def refused(constant):
    """What json.loads calls with NaN, Infinity and -Infinity as `parse_constant`."""
    raise AssertionError(f"{constant} is no JSON")


class Page(html.parser.HTMLParser):
    """Elements that are open, the tags there were, addresses, ids, scripts and frames of a page."""

    VOID = {"meta", "input", "br", "hr", "img", "link"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.addresses, self.ids = [], [], [], []
        self.scripts, self.frames, self.texts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert not {a for a in attrs if a.startswith("on")}, attrs
        self.tags.append(tag)
        self.addresses += [attrs[a] for a in ("src", "href", "srcset", "action", "data", "poster") if a in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.frames += [attrs["srcdoc"]] if tag == "iframe" else []
        if tag == "script":
            self.scripts.append((attrs, ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        where = self.open[-1] if self.open else ""
        self.texts[where] = self.texts.get(where, "") + text
        if where == "script":
            attrs, before = self.scripts[-1]
            self.scripts[-1] = attrs, before + text


# what a style or a script asks somebody with
ASKS = ("@import", "fetch(", "XMLHttpRequest", "WebSocket", "EventSource", "sendBeacon", "import(", "importScripts")


def whole(text):
    """[the Page of a text, the pages in its frames, ...], each of which is checked."""
    assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text
    page = Page(text)
    assert not page.open and page.tags[:2] == ["html", "head"] and page.tags.count("body") == 1
    assert page.texts["title"].startswith("look.")
    assert all(a.startswith("#") and a[1:] in page.ids for a in page.addresses)  # places in the page
    assert not {"i", "img", "link", "base", "object", "embed"} & set(page.tags)  # none is used; <i> is in tests' names
    assert len(page.ids) == len(set(page.ids)) and page.tags.count("h1") == 1
    assert not re.search(r"<(h[1-6]|p|li|ul|pre|code)( [^>]*)?>\s*</\1>", text), "an element of nothing"
    code = " ".join([page.texts["style"], *(t for a, t in page.scripts if a.get("type") != "application/json")])
    assert not [word for word in ASKS if word in code]
    assert re.findall(r"url\((?!#)", text) == [] and set(re.findall(r"https?://[^\"'\s<]*", code)) <= {
        "http://www.w3.org/2000/svg"}
    for attrs, script in page.scripts:
        if attrs.get("type") == "application/json":
            json.loads(script, parse_constant=refused)
    return [page, *(inner for frame in page.frames for inner in whole(frame))]
