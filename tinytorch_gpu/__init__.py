from .autograd import engine, hooks
from . import ops
