"""Predictions against gold answers: how good, on which questions, how sure.

- `evaluate`: `evaluate` and what it finds
- `matching`: gold answers, predictions and no-answer probabilities side by side
- `pairs`: the prediction of each question, while both stream by
- `kept`: records out of memory
- `remarks`: what data say about themselves
- `sheet`: what is kept of questions that are scored
- `normalizers`: the form in which answers are compared
- `metrics`: exact match and F1 of SQuAD 1.1 and 2.0, and what other suites' are made of
- ``suites``: each evaluation suite by its official definition
- `figures`: totals as people read them, with their intervals
- `thresholds`: no-answer thresholds, precision and recall
- `breakdown`: scores by kind of question
- `statistics`: bootstrap, McNemar's test, calibration
- `results`: what is kept of an evaluation
- ``comparing``: two runs side by side; how far a model's variants drift from it
"""
