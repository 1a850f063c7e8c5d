"""The page that needs no other file."""

from html.parser import HTMLParser

import numpy as np

from lightning_xai.report import html as page


class Tags(HTMLParser):
    """Counts tags, and checks that each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_whole_and_well_formed():
    figure = page.figure(np.zeros((2, 3, 3), np.uint8), 'a "caption" & more')
    parts = [page.heading("one"), page.bullets(["a < b", "c"]), page.table(["x", "y"], [["1 & 2", 3]]), figure]
    text = page.page("Title <b>", parts)
    reader = Tags()
    reader.feed(text)
    assert not reader.open and reader.seen.count("li") == 2 and reader.seen.count("td") == 2
    assert 'src="data:image/png;base64,' in text and "<b>" not in text.replace("<body>", "") and "1 &amp; 2" in text
    assert "http" not in text, "nothing is fetched"
