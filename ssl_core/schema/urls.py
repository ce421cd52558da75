"""URLs and the credentials in them, which are to be shown and written down nowhere."""

import re


def without_credentials(text: str) -> str:
    """A URL, or a text with URLs in it, without the names and passwords that stand before their hosts."""
    return re.sub(r"(?<=://)[^/\s@]*(?:@[^/\s@]*)*@", "", text)
