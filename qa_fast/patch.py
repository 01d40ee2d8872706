"""Importing this module calls `qa_fast.register()`: the one line that old code needs.

Example:
    >>> import qa_fast.patch
    >>> import transformers
    >>> transformers.pipelines.check_task("question-answering")[0]
    'question-answering'
"""

from .dropin.registration import register

register()
