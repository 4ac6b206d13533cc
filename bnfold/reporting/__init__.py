"""A fold or a pair of models as one page of HTML that needs nothing else: no network, no server, no other file.

`collect` and `of_fold` collect plain data (schema `bnfold.report/1`), `to_html` makes the page of it. Names in a model
are those of a stranger: they reach the page as text alone.
"""

from __future__ import annotations

from .collecting import collect as collect
from .collecting import of_fold as of_fold
from .page import report as report
from .page import to_html as to_html

__all__ = ["collect", "of_fold", "report", "to_html"]
