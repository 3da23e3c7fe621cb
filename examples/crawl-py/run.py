"""Fetches a page and gives its words and its links, a line each; names the links as items."""

from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

import ipdc


def run(url):
    page = ipdc.fetch(url)
    # To another host: it is another item, if the job takes it.
    if page.location:
        ipdc.enqueue(page.location)
        return None
    if page.status != 200:
        ipdc.log(f"status {page.status}")
        return f"status\t{page.status}"
    found = Found()
    found.feed(page.text)
    links = [link for link in (urldefrag(urljoin(page.url, href)).url for href in found.links) if is_page(link)]
    for link in links:
        ipdc.enqueue(link)
    return "\n".join(["words\t" + " ".join(found.words), *(f"link\t{link}" for link in links)])


def is_page(link):
    return link.startswith(("http://", "https://"))


class Found(HTMLParser):
    """The words of a page and where its links lead."""

    def __init__(self):
        super().__init__()
        self.words, self.links = [], []

    def handle_data(self, text):
        self.words += text.split()

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.links += [value for name, value in attributes if name == "href" and value]
