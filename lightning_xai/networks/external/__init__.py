"""Networks of other libraries by their names, each an extra: ``pip install -e '.[timm]'``."""
