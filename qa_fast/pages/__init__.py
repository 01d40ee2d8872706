"""HTML that loads nothing: the report, and answers in a notebook.

- `report`: the report of an evaluation
- `examples`: the examples on it
- `plots`: its figures
- `images`: what the official SQuAD 2.0 script draws
- `page`: templates, styles, and what a page may run
- `notebook`: `show`: answers marked in their text
- ``templates``: the pages, their style sheets and their script
"""
