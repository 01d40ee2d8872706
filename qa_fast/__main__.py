"""``python -m qa_fast`` is the command ``qa-fast``."""

from qa_fast.cli import main

main()
