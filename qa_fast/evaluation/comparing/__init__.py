"""Two runs side by side; how far a model's variants drift from it.

- `compare`: two runs that were scored
- `drift`: a model's variants beside it, on the same questions, in one run
- `contestants`: the models, loaded and named
- `asked`: the questions
- `turns`: who reads when, and how long it takes
- `differences`: what is kept of each question, and the figures of it
- `record`: the outcome as JSON, and in words
- ``squad2-dev-300``: questions to read where no others are given
"""
