from .families import ENTRIES, TIERS, VERSION, Entry, Shift, get, make, of_tier
from .playing import Interface, Learner, Played, Player
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
    "Player",
    "Reference",
    "Shift",
    "aggregate",
    "draw",
    "get",
    "make",
    "normalised",
    "of_family",
    "of_tier",
    "reference",
]
