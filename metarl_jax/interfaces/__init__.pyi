from . import asymmetric as asymmetric
from . import belief as belief
from . import context as context
from . import few_shot as few_shot
from . import gradient as gradient
