"""What old code calls, back on this engine.

- `pipeline`: Transformers' question-answering pipeline
- `inputs`: what its callers may pass
- `registration`: `register` and `unregister`: a place in Transformers' own registry
- `run_qa`: `postprocess_qa_predictions` of Transformers' run_qa example
- `run_qa_features`: the rows and offsets that it is given
- `run_qa_answers`: its n-best lists, and null answers among them
- `run_qa_files`: the files that it writes
- `reader`: `Reader`, as Haystack's ExtractiveReader
"""
