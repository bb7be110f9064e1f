from . import classification as classification
from . import glyphs as glyphs
from . import omniglot as omniglot
from . import sinusoid as sinusoid
