"""Evaluation suites: each as its official script defines it, by its own keys.

- `suite`: what a suite is
- `registry`: suites by name
- `fitting`: whether another suite would fit the data
- `squad`: SQuAD 1.1 and 2.0, XQuAD, MLQA, MRQA, ARCD
- `tydiqa`: TyDi QA's gold passage task
- `korquad`: KorQuAD 1.0 and 2.0
- `cmrc`: CMRC 2018 and DRCD
- `cuad`: CUAD
- `persianqa`: PersianQA, both methods
"""
