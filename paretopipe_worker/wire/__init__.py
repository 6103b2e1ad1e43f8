"""Wire formats: how the tensors of a message are packed into bytes, and unpacked again.

:mod:`.api` says what a packer does, :mod:`.formats` lists the formats and makes packers. Both ends
know the shapes and dtypes of what crosses, so a message has no header, and no size is ever read
from it: most formats have one size for given tensors, and the lossless ones a largest size.
"""
