"""A picture with what has to be said of it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a result.

    Attributes:
        id: Names it; its file is plots/ID.svg.
        section: The heading that it stands under.
        title: What it shows, in a few words.
        view: "on-policy", "fixed-set", or "on-policy and fixed-set".
        caption: What is drawn, of what and how many, with which limits, and how to read it.
        alt: The same in a sentence, with the main figures, for who cannot see it.
        svg: The document, its text kept as text; same result, same bytes.
    """

    id: str
    section: str
    title: str
    view: str
    caption: str
    alt: str
    svg: str
