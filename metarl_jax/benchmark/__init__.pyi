from .families import ENTRIES, TIERS, VERSION, Entry, Shift, get, make, of_tier
from .play import Interface, Learner, Played, play
from .score import FamilyScore, Reference, aggregate, normalised, of_family, reference
from .tasks import draw

__all__ = [
    "ENTRIES",
    "TIERS",
    "VERSION",
    "Entry",
    "FamilyScore",
    "Interface",
    "Learner",
    "Played",
    "Reference",
    "Shift",
    "aggregate",
    "draw",
    "get",
    "make",
    "normalised",
    "of_family",
    "of_tier",
    "play",
    "reference",
]
